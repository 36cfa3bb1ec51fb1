//! The tch releases that are tested, each with the torch that it works with. The torch of the default
//! release is also named in `.cargo/config.toml`.

/// One tch release with the one torch it works with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Release {
    /// As `--tch` takes it.
    pub(crate) tch: &'static str,
    /// Version of `tch` and of `torch-sys`; they are released together.
    pub(crate) tch_exact: &'static str,
    pub(crate) torch: &'static str,
    /// Wheels that torch's CPU library is linked to without using them, in the versions of the
    /// `cuda-toolkit` that torch's metadata names.
    pub(crate) cuda_runtime: &'static [&'static str],
}

const CUDA_13_0: &[&str] = &["nvidia-cuda-cupti==13.0.85", "nvidia-cuda-runtime==13.0.96"];

pub(crate) static RELEASES: [Release; 2] = [
    Release {
        tch: "0.26",
        tch_exact: "0.26.0",
        torch: "2.13.0",
        cuda_runtime: CUDA_13_0,
    },
    Release {
        tch: "0.24",
        tch_exact: "0.24.0",
        torch: "2.11.0",
        cuda_runtime: CUDA_13_0,
    },
];

/// The release in `Cargo.lock`, which plain `cargo test` uses.
pub(crate) static DEFAULT: &Release = &RELEASES[0];

/// The release the CUDA bundle is built against.
pub(crate) static BUNDLED: &Release = &RELEASES[1];

impl Release {
    pub(crate) fn named(tch: &str) -> Option<&'static Self> {
        RELEASES
            .iter()
            .find(|release| release.tch == tch || release.tch_exact == tch)
    }

    /// Parses the value of `--tch`.
    pub(crate) fn parse(tch: &str) -> Result<&'static Self, String> {
        Self::named(tch).ok_or_else(|| {
            let known = RELEASES.each_ref().map(|release| release.tch);
            format!("expected {}", known.join(" or "))
        })
    }

    pub(crate) fn is_default(&self) -> bool {
        self == DEFAULT
    }

    /// Whether a torch of this version, as Python writes it (`2.13.0+cu130`), is the right one.
    pub(crate) fn fits(&self, torch: &str) -> bool {
        public_version(torch) == self.torch
    }
}

/// A version without the build after the `+`, which does not matter to tch.
pub(crate) fn public_version(version: &str) -> &str {
    let version = version.trim();
    version
        .split_once('+')
        .map_or(version, |(public, _)| public)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torch_fits_by_version_whatever_its_build() {
        assert!(DEFAULT.fits("2.13.0+cu130"));
        assert!(DEFAULT.fits("2.13.0\n"));
        assert!(!DEFAULT.fits("2.13.1"));
        assert!(!DEFAULT.fits("2.13.0a0"));
        assert!(!DEFAULT.fits("2.11.0+cpu"));
    }

    #[test]
    fn the_cargo_configuration_points_at_the_default_torch() {
        let config = include_str!("../../.cargo/config.toml");
        let entry = format!("value = \"target/libtorch/{}/torch\"", DEFAULT.torch);
        assert!(config.contains(&entry), "no {entry} in .cargo/config.toml");
    }

    #[test]
    fn the_lock_file_holds_a_tested_tch() {
        let lock = include_str!("../../Cargo.lock");
        for name in ["tch", "torch-sys"] {
            let (_, rest) = lock
                .split_once(&format!("name = \"{name}\"\nversion = \""))
                .unwrap();
            let (version, _) = rest.split_once('"').unwrap();
            // The copy of the sources for another release has that one in its lock file.
            assert!(
                Release::named(version).is_some(),
                "{name} {version} is not in RELEASES"
            );
        }
    }
}
