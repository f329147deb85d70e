"""The pages, by the name in the URL: title, and a function of the selection. README.md says how to add one."""

from views import heads

PAGES = {"heads": ("Heads", heads.page)}
