"""Calls to servers: bounded, tried again where that helps, with a key that is shown nowhere. It knows no judge and no model."""
