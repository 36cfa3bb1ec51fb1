//! The modules of a target: read from its root file on, and how paths resolve in them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::commands::layout::contents::{Contents, Declared, Use};

/// The module tree of a library, program, test or benchmark.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    /// The folder of the root file.
    pub(crate) folder: PathBuf,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) modules: Vec<Module>,
}

#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) file: usize,
    pub(crate) contents: Contents,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
}

impl ModuleTree {
    pub(crate) fn read(root: &Path) -> io::Result<Self> {
        let folder = root.parent().expect("a file is in a folder").to_owned();
        let mut target = ModuleTree {
            folder: folder.clone(),
            files: Vec::new(),
            modules: Vec::new(),
        };
        target.read_file(root, &folder, None)?;
        Ok(target)
    }

    /// Reads the module in `file`, whose modules are in `folder`, and returns its number.
    fn read_file(
        &mut self,
        file: &Path,
        folder: &Path,
        parent: Option<usize>,
    ) -> io::Result<usize> {
        let text = fs::read_to_string(file)?;
        let contents = text
            .parse()
            .map_err(syn::Error::from)
            .and_then(Contents::parse);
        let contents = contents.map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: {error}", file.display()),
            )
        })?;
        self.files.push(file.to_owned());
        let number = self.files.len() - 1;
        self.add(contents, number, file, folder, parent)
    }

    fn add(
        &mut self,
        mut contents: Contents,
        file: usize,
        path: &Path,
        folder: &Path,
        parent: Option<usize>,
    ) -> io::Result<usize> {
        let number = self.modules.len();
        let declared = std::mem::take(&mut contents.modules);
        self.modules.push(Module {
            file,
            contents,
            parent,
            children: BTreeMap::new(),
        });
        for Declared {
            name,
            path: attribute,
            inline,
        } in declared
        {
            let child = match inline {
                Some(inner) => self.add(inner, file, path, &folder.join(&name), Some(number))?,
                None => {
                    let (file, folder) = find(path, folder, &name, attribute.as_deref());
                    self.read_file(&file, &folder, Some(number))?
                }
            };
            self.modules[number].children.insert(name, child);
        }
        Ok(number)
    }

    /// The file that has the item of a path that stands in `module`; `None` for paths of other crates.
    pub(crate) fn resolve(&self, module: usize, path: &[String]) -> Option<usize> {
        self.resolve_within(module, path, 0)
    }

    fn resolve_within(&self, module: usize, path: &[String], depth: usize) -> Option<usize> {
        let (head, rest) = path.split_first()?;
        let start = match head.as_str() {
            "crate" => 0,
            "self" => module,
            "super" => self.modules[module].parent?,
            name => *self.modules[module].children.get(name)?,
        };
        let mut current = start;
        for (place, name) in rest.iter().enumerate() {
            let found = &self.modules[current];
            if name == "super" {
                current = found.parent?;
            } else if let Some(child) = found.children.get(name) {
                current = *child;
            } else if found.contents.defined.contains(name) || depth > 16 {
                break;
            } else if let Some(file) = self.imported(current, &rest[place..], depth) {
                return Some(file);
            } else {
                break;
            }
        }
        Some(self.modules[current].file)
    }

    /// Follows a re-export of the first name of `path`.
    fn imported(&self, module: usize, path: &[String], depth: usize) -> Option<usize> {
        let uses = &self.modules[module].contents.uses;
        let follow = |one: &Use, rest: &[String]| {
            let whole: Vec<_> = one.path.iter().chain(rest).cloned().collect();
            self.resolve_within(module, &whole, depth + 1)
        };
        if let Some(one) = uses.iter().find(|one| one.name == path[0]) {
            return follow(one, &path[1..]);
        }
        let globs = uses.iter().filter(|one| one.name == "*");
        let defines = |file: &usize| {
            let mut modules = self.modules.iter();
            modules.any(|module| module.file == *file && module.contents.defined.contains(&path[0]))
        };
        globs.filter_map(|one| follow(one, path)).find(defines)
    }
}

/// The file of a module that `parent` declares, and the folder of that module's own modules.
fn find(parent: &Path, folder: &Path, name: &str, attribute: Option<&str>) -> (PathBuf, PathBuf) {
    if let Some(attribute) = attribute {
        let beside = parent.parent().expect("a file is in a folder");
        let file = beside.join(attribute);
        let folder = file.parent().expect("a file is in a folder").to_owned();
        return (file, folder);
    }
    let inside = folder.join(name);
    match folder.join(format!("{name}.rs")) {
        file if file.exists() => (file, inside),
        _ => (inside.join("mod.rs"), inside),
    }
}
