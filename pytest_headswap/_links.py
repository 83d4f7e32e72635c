"""Address of the documentation, for messages that link to the page that explains them."""

DOCS = "https://pytest-headswap.readthedocs.io/en/stable/"


def page(name: str, anchor: str = "") -> str:
    """Return the address of a documentation page, or of an anchor on it."""
    return f"{DOCS}{name}/" + (f"#{anchor}" if anchor else "")
