"""The bundles that volssl ships; installed as `volssl.bundles`."""
