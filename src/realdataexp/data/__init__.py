"""Data: KuaiRand CSV files to columnar tables, their cache, features, and synthetic data."""
