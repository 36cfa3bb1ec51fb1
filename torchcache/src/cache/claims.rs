//! Who uses a module hash in this process. The code of two items, or of two wrapped modules, may differ in
//! what no hash contains, such as the constants around them: a second one with the hash of the first gets
//! none of its rows.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::definition::Definition;
use crate::error::Detail;
use crate::function::{Function, Implementation};
use crate::sync::lock;

/// The claims of those whose rows may outlive them, by a digest of what is claimed. The claims are bounded,
/// since weights that keep changing make one at each change: the owner that finds no room has all others
/// from then on.
#[derive(Debug)]
pub(crate) struct Claims<O> {
    recorded: BTreeMap<[u8; 32], O>,
    /// The most to record.
    max: usize,
    /// Who has every claim that is not recorded.
    others: Option<O>,
}

/// Why a claim fails.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Conflict<O> {
    /// Another owner has it.
    With(O),
    /// Another owner may have it: too many claims were made to record them all.
    Possible(O),
}

impl<O: Copy> Claims<O> {
    /// No claims, of which so many are recorded at most.
    pub(crate) const fn new(max: usize) -> Self {
        Claims {
            recorded: BTreeMap::new(),
            max,
            others: None,
        }
    }

    /// Claims `key` permanently.
    ///
    /// # Errors
    ///
    /// An owner that is not the same has it, or may have it.
    pub(crate) fn claim(
        &mut self,
        key: [u8; 32],
        owner: O,
        is_same: impl Fn(&O, &O) -> bool,
    ) -> Result<(), Conflict<O>> {
        if let Some(first) = self.recorded.get(&key) {
            return match is_same(first, &owner) {
                true => Ok(()),
                false => Err(Conflict::With(*first)),
            };
        }
        if self.recorded.len() < self.max {
            self.recorded.insert(key, owner);
            return Ok(());
        }
        let first = *self.others.get_or_insert(owner);
        match is_same(&first, &owner) {
            true => Ok(()),
            false => Err(Conflict::Possible(first)),
        }
    }
}

/// The most claims of items of one name, which nearly always are one item: about a megabyte.
const MAX_CLAIMS: usize = 1 << 13;

/// A function of an item.
#[derive(Debug, Clone, Copy)]
struct Owner {
    definition: Definition,
    implementation: Option<Implementation>,
}

impl Owner {
    fn is_same(&self, other: &Owner) -> bool {
        let ids = |owner: &Owner| {
            let implementation = owner.implementation.map(|it| it.definition.type_id());
            (owner.definition.type_id(), implementation)
        };
        ids(self) == ids(other)
    }

    /// As shown in an error about it and `other`.
    fn shown(&self, other: &Owner) -> String {
        let is_same_item = self.definition.type_id() == other.definition.type_id();
        match self.implementation.filter(|_| is_same_item) {
            Some(implementation) => implementation.definition.shown(),
            None => self.definition.shown(),
        }
    }
}

/// Claims a module hash, and the name in its row keys, for a function of an item. `code`: what tells its rows
/// under the hash from those of others.
///
/// # Errors
///
/// Another item uses them, or may use them, for a function of equal code.
pub(crate) fn claim(
    hash: &str,
    definition: Definition,
    function: &Function,
    code: &[u8],
) -> Result<(), Detail> {
    static CLAIMS: Mutex<BTreeMap<String, Claims<Owner>>> = Mutex::new(BTreeMap::new());
    let mut claims = lock(&CLAIMS);
    let claims = claims.entry(definition.full_name());
    let claims = claims.or_insert_with(|| Claims::new(MAX_CLAIMS));
    let mut key = blake3::Hasher::new();
    key.update(&(code.len() as u64).to_le_bytes());
    key.update(code).update(hash.as_bytes());
    let owner = Owner {
        definition,
        implementation: function.implementation,
    };
    match claims.claim(*key.finalize().as_bytes(), owner, Owner::is_same) {
        Ok(()) => Ok(()),
        Err(Conflict::With(first)) => Err(Detail::SameDefinition {
            first: first.shown(&owner),
            second: owner.shown(&first),
        }),
        Err(Conflict::Possible(first)) => Err(Detail::PossiblySameDefinition {
            first: first.shown(&owner),
            second: owner.shown(&first),
            claims: MAX_CLAIMS,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::Place;

    #[test]
    fn an_error_says_what_is_known_of_two_items() {
        struct One;
        struct Other;
        // Two items of one expansion.
        let place = Place::new("src/lib.rs", None, (3, 1), (7, 1));
        let (one, other) = (
            Definition::of::<One>("claimed", place),
            Definition::of::<Other>("claimed", place),
        );
        let function = Function::unknown("forward", &["xs"]);
        let claim = |hash: &str, of| claim(hash, of, &function, &[0; 32]);
        claim("first", one).unwrap();
        let error = |hash| claim(hash, other).unwrap_err().to_string();
        let known = error("first");
        assert!(known.contains("have the same identity: name, weights and `version` are equal"));
        for number in 0..MAX_CLAIMS {
            claim(&number.to_string(), one).unwrap();
        }
        assert_eq!(error("first"), known);
        let possible = error("another");
        for words in [
            "`claimed` at src/lib.rs:3:1",
            "may have the same identity",
            "8192",
        ] {
            assert!(possible.contains(words), "{possible}");
        }
        assert!(!possible.contains("weights"), "{possible}");
    }

    #[test]
    fn claims_beyond_the_bound_have_one_owner() {
        let mut claims = Claims::new(2);
        let mut claim = |key: u8, owner: char| claims.claim([key; 32], owner, |a, b| a == b);
        assert_eq!(claim(1, 'a'), Ok(()));
        assert_eq!(claim(2, 'b'), Ok(()));
        assert_eq!(claim(1, 'b'), Err(Conflict::With('a')));
        // Without room: 'b' is first.
        for key in 3..100 {
            assert_eq!(claim(key, 'b'), Ok(()));
            assert_eq!(claim(key, 'a'), Err(Conflict::Possible('b')));
        }
        assert_eq!(claim(1, 'a'), Ok(()), "it is recorded");
        assert_eq!(claim(2, 'a'), Err(Conflict::With('b')));
        assert_eq!(claims.recorded.len(), 2);
    }
}
