"""How annotations are checked while tests run: an int where a float is expected is right, as in Python itself."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
