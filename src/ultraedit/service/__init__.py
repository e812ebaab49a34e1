"""`ultraedit serve`: an HTTP service that answers with edited models and takes edits."""
