"""The manager of widgets, which Colab has to load for widgets that are not its own."""

_installed_url = None


def enable_custom_widget_manager():
    """Have outputs with a widget name the program that shows it."""
    global _installed_url  # noqa: PLW0603 - as google-colab does
    _installed_url = "https://static.example/manager.min.js"
