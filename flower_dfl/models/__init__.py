"""Models: functions of the input shape and the number of labels that return a :class:`torch.nn.Module`.

A model of your own is a function or class given by reference (``model.name = "my_pkg.task:Net"``); it may take
``input_shape`` and ``num_classes``.
"""

__all__: list[str] = []
