"""The search page: a gallery in the browser, and over HTTP for programs on this machine."""
