"""The collection at one cluster time, as Parquet files."""
