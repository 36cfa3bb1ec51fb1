//! The benchmarks, in the order of `docs/benchmarks.md`. A new one is an entry of this list.

/// A part of the page: what one benchmark prints when it is given `--markdown`.
#[derive(Debug, PartialEq)]
pub(crate) struct Part {
    /// As it is asked for, and in the markers of the page.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Where it lies.
    pub(crate) package: &'static str,
    pub(crate) bench: &'static str,
    /// What stands before its figures.
    pub(crate) about: &'static str,
}

/// The one that needs the Python package, and that gives the chart.
pub(crate) const WORKLOADS: &str = "workloads";

/// The one that needs images.
pub(crate) const TRANSFER: &str = "transfer";

const fn part(
    name: &'static str,
    title: &'static str,
    [package, bench]: [&'static str; 2],
    about: &'static str,
) -> Part {
    Part {
        name,
        title,
        package,
        bench,
        about,
    }
}

/// Advice that the figures bear out.
const POLICY: &str = "\
What to choose where the data is larger than the tier:

* *Leave it at `auto`* unless you know better. In memory it is close to the better of the other two \
in all that is measured here, and needs no knob. After the data changes it takes an epoch or two more \
than `lru` before new rows get in; `clear()` saves the wait. It is worse than `lru` where the tier \
holds less than one batch.
* *`lru`* for rows that come back soon and then never again. In epochs it keeps what was just asked for, \
which is what comes again last: of a tier that holds a tenth of the data nearly nothing is of use.
* *`never`* for epochs over one fixed data set. On disk it is the one that writes what fits once; the other \
two write most of what does not fit again in every epoch. It never takes in other data.
* A higher bound beats every policy: half of the data kept is half of the forward saved.";

#[rustfmt::skip]
pub(crate) static PARTS: [Part; 6] = [
    part(WORKLOADS, "Three workloads, beside the Python package and the limit", ["torchcache-benches", "workloads"], ""),
    part("policy", "Eviction policies", ["torchcache-benches", "policy"], POLICY),
    part(TRANSFER, "Transfer learning, end to end", ["torchcache-benches", "transfer"], ""),
    part("stages", "The stages of a call", ["torchcache-benches", "stages"], ""),
    part("store", "The stages of the disk tier", ["torchcache-store", "stages"], "The disk tier by itself, each step beside the plain system call or copy that it cannot do without."),
    part("scale", "Scale", ["torchcache-store", "scale"], "Rows of 64 bytes, 64 of them in a call, at random from all that are there; each size in a process of its own. At the bottom, what storing a row costs while others must go for it."),
];

impl Part {
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        PARTS.iter().find(|part| part.name == name)
    }

    /// All names, for those who gave another.
    pub(crate) fn names() -> String {
        PARTS.each_ref().map(|part| part.name).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_part_is_found_by_its_name_and_is_a_benchmark_of_its_package() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for part in &PARTS {
            assert_eq!(Part::named(part.name), Some(part));
            let folder = part.package.replace("torchcache-benches", "benches");
            let manifest = root.join(folder).join("Cargo.toml");
            let manifest = fs::read_to_string(manifest).unwrap();
            let entry = format!("[[bench]]\nname = \"{}\"", part.bench);
            assert!(manifest.contains(&entry), "no {entry} in {}", part.package);
        }
        assert_eq!(Part::named("all"), None);
    }
}
