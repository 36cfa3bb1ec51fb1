//! The benchmarks, which are the parts of `docs/benchmarks.md`.

/// What one benchmark prints when it is given `--markdown`.
#[derive(Debug, PartialEq)]
pub(crate) struct Part {
    /// On the command line, and in the markers of the page.
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) bench: &'static str,
}

/// Needs the Python package, and gives the chart.
pub(crate) const WORKLOADS: &str = "workloads";

/// Needs images.
pub(crate) const TRANSFER: &str = "transfer";

const fn part(name: &'static str, package: &'static str, bench: &'static str) -> Part {
    Part {
        name,
        package,
        bench,
    }
}

pub(crate) static PARTS: [Part; 6] = [
    part(WORKLOADS, "torchcache-benches", "workloads"),
    part("policy", "torchcache-benches", "policy"),
    part(TRANSFER, "torchcache-benches", "transfer"),
    part("stages", "torchcache-benches", "stages"),
    part("store", "torchcache-store", "stages"),
    part("scale", "torchcache-store", "scale"),
];

impl Part {
    pub(crate) fn parse(name: &str) -> Result<&'static Self, String> {
        let found = PARTS.iter().find(|part| part.name == name);
        found.ok_or_else(|| {
            let names = PARTS.each_ref().map(|part| part.name);
            format!("expected one of {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_part_is_a_benchmark_and_has_its_markers() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = fs::read_to_string(root.join("docs/benchmarks.md")).unwrap();
        for part in &PARTS {
            assert_eq!(Part::parse(part.name), Ok(part));
            let folder = part.package.replace("torchcache-benches", "benches");
            let manifest = fs::read_to_string(root.join(folder).join("Cargo.toml")).unwrap();
            let entry = format!("[[bench]]\nname = \"{}\"", part.bench);
            assert!(manifest.contains(&entry), "no {entry} in {}", part.package);
            let markers = format!("<!-- begin: {} -->", part.name);
            assert!(page.contains(&markers), "no {markers} in the page");
        }
        assert!(
            Part::parse("all")
                .unwrap_err()
                .contains("workloads, policy")
        );
    }
}
