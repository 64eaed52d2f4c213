//! Inputs and oracles shared by the fuzz targets.
