//! Which annotated item uses a module hash in this process. The code of two items may differ in what no
//! hash contains, such as the constants around them: a second item with the hash of the first is an
//! error.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::definition::Definition;
use crate::error::Detail;
use crate::sync::lock;

/// Claims a module hash, and the name in its row keys, for an item.
///
/// # Errors
///
/// Another item uses them.
pub(crate) fn claim(hash: &str, definition: Definition) -> Result<(), Detail> {
    static CLAIMS: Mutex<BTreeMap<(String, String), Definition>> = Mutex::new(BTreeMap::new());
    let claimed = (hash.to_owned(), definition.full_name());
    let first = *lock(&CLAIMS).entry(claimed).or_insert(definition);
    if first.type_id() == definition.type_id() {
        return Ok(());
    }
    Err(Detail::SameDefinition {
        first: first.shown(),
        second: definition.shown(),
    })
}
