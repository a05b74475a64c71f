"""The base of every model. A new method reads `method`, and needs no other file here."""

from cellfuse.model.base.arguments import as_in
from cellfuse.model.base.document_model import DocumentModel
from cellfuse.model.base.recipe import Recipe

__all__ = ["DocumentModel", "Recipe", "as_in"]
