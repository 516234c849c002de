"""A study's report, as HTML, Markdown and CSV. Imports studies and sbrl."""
