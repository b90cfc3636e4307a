import pytest

pytest.importorskip("matplotlib", reason="needs the extra flower-dfl[report]")

RING = ["--set", "topology.name=ring", "--set", "num-nodes=5", "--set", "num-byzantine=1"]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_suffix_decides_the_format_of_the_picture(command, tmp_path, suffix, start):
    code, output, _ = command("topology", *RING, "--picture", f"new/ring.{suffix}")

    assert code == 0
    path = tmp_path / "new" / f"ring.{suffix}"
    assert output.splitlines()[-1] == str(path)
    assert path.read_bytes().startswith(start)


def test_another_suffix_is_an_error(command, tmp_path):
    code, _, errors = command("topology", *RING, "--picture", "ring.gif")

    assert code == 2
    assert errors == "error: a picture ends in .pdf, .svg, .png, got 'ring.gif'\n"


def test_without_a_picture_none_is_drawn(command, tmp_path):
    code, _, _ = command("topology", *RING)

    assert code == 0
    assert list(tmp_path.iterdir()) == []
