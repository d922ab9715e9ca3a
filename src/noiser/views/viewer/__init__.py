"""The viewer: one HTML page that shows an attribution or a comparison. It uses no framework and no network."""
