"""What a study found, as HTML, Markdown and CSV. Imports studies and sbrl."""
