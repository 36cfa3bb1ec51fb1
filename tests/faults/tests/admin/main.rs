//! Administration while another process or a power cut interferes.

mod common;
mod descriptors;
mod moments;
mod plan;
mod power;
