import logging

import pytest

from flower_dfl.cli.failure import logged

LOGGER = logging.getLogger("flower_dfl.somewhere")


def divide(number, by):
    return number / by


def test_what_fails_is_written_with_its_traceback_and_the_error_names_the_file(tmp_path):
    with pytest.raises(ZeroDivisionError) as caught, logged(tmp_path):
        divide(1, 0)

    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "return number / by" in log
    assert "ZeroDivisionError: division by zero" in log
    assert caught.value.__notes__ == [f"details: {tmp_path / 'run.log'}"]


def test_the_engines_own_log_is_named_too(tmp_path):
    (tmp_path / "flower.log").touch()

    with pytest.raises(ValueError, match="x") as caught, logged(tmp_path):
        raise ValueError("x")

    assert caught.value.__notes__ == [f"details: {tmp_path / 'run.log'} and {tmp_path / 'flower.log'}"]


def test_what_was_logged_before_is_in_the_file_and_not_on_the_terminal(tmp_path, capsys, caplog):
    with logged(tmp_path):
        LOGGER.error("a node failed")

    assert "ERROR flower_dfl.somewhere: a node failed\n" in (tmp_path / "run.log").read_text(encoding="utf-8")
    assert not caplog.records
    assert capsys.readouterr().err == ""


def test_a_run_without_trouble_has_no_log_and_leaves_logging_as_it_was(tmp_path, caplog):
    with logged(tmp_path):
        pass

    LOGGER.error("later")
    assert not (tmp_path / "run.log").exists()
    assert [record.message for record in caplog.records] == ["later"]


def test_an_interruption_is_no_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), logged(tmp_path):
        raise KeyboardInterrupt

    assert not (tmp_path / "run.log").exists()
