"""Where the documentation is, so that messages can name the page that explains them."""

DOCS = "https://pytest-headswap.readthedocs.io/en/stable/"


def page(name: str, anchor: str = "") -> str:
    """The address of a page, or of a place in it."""
    return f"{DOCS}{name}/" + (f"#{anchor}" if anchor else "")
