"""Reports: pictures that show a model beside its data."""
