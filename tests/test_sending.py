"""The server sends a limited number of messages at once, and gives up on silent nodes."""

from types import SimpleNamespace

from flower_dfl.server_app import _MOST_OPEN, _send_and_receive


class Grid:
    """Answers the oldest open messages, some at each pull; ``silent`` ones never."""

    def __init__(self, at_once, silent=()):
        self.open = []
        self.pushed = []
        self.most_open = 0
        self._at_once = at_once
        self._silent = silent

    def push_messages(self, messages):
        self.open += messages
        self.pushed += messages
        self.most_open = max(self.most_open, len(self.open))
        return list(messages)

    def pull_messages(self, message_ids):
        answered = [m for m in self.open if m in message_ids and m not in self._silent][: self._at_once]
        self.open = [message for message in self.open if message not in answered]
        return [SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=message)) for message in answered]


def answered(replies):
    return [reply.metadata.reply_to_message_id for reply in replies]


def test_every_message_is_sent_in_order_and_answered_once():
    grid, messages = Grid(at_once=50), [f"message-{place}" for place in range(3 * _MOST_OPEN)]

    taken, replies = _send_and_receive(grid, messages, patience=60.0)

    assert grid.pushed == messages
    assert taken == set(messages)
    assert sorted(answered(replies)) == sorted(messages)


def test_no_more_messages_are_open_at_once_than_the_engine_can_search():
    grid = Grid(at_once=50)

    _send_and_receive(grid, [f"message-{place}" for place in range(3 * _MOST_OPEN)], patience=60.0)

    assert grid.most_open == _MOST_OPEN


def test_silent_nodes_end_the_wait_and_the_answers_of_the_others_are_kept():
    grid = Grid(at_once=1, silent=("b",))

    taken, replies = _send_and_receive(grid, ["a", "b", "c"], patience=0.2)

    assert taken == {"a", "b", "c"}
    assert answered(replies) == ["a", "c"]


def test_messages_that_are_not_taken_are_not_waited_for():
    grid = Grid(at_once=1)
    push = grid.push_messages
    grid.push_messages = lambda messages: [message if message == "b" else "" for message in push(messages)]

    taken, replies = _send_and_receive(grid, ["a", "b", "c"], patience=3600.0)

    assert taken == {"b"}
    assert answered(replies) == ["b"]


def test_where_many_nodes_are_silent_the_others_still_get_their_messages():
    messages = [f"message-{place}" for place in range(2 * _MOST_OPEN)]
    grid = Grid(at_once=50, silent=messages[:_MOST_OPEN])

    _, replies = _send_and_receive(grid, messages, patience=0.1)

    assert sorted(answered(replies)) == sorted(messages[_MOST_OPEN:])
