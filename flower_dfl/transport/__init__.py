"""How models travel, and where a node's memory is kept between rounds. :mod:`.base` says what a transport is."""
