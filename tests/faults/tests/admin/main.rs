//! Administration while another process or a power cut interferes.

mod common;
mod moments;
mod power;
