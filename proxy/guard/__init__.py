"""What stands between a client's socket and the application.

`protocol` is uvicorn's HTTP protocol with bounds on all that a client sends, and how fast; `heads`
says which requests are not what they seem; `cycle` writes replies; `admission` decides which
requests are answered now, wait, or are turned away. Whatever is refused, the application says so.
"""
