"""What every view is made with, Python and JavaScript side by side; `docs/adding_a_view.md` shows it in use."""
