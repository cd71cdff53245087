"""Writers of results: GeoJSON, annotation stores, zarr, figures and the report."""
