//! The key of each row: exact, and independent of the batch that the row came in.
//!
//! A row of a tensor has a plain BLAKE3 digest of its bytes. A key is BLAKE3 over a prefix that is
//! the same for the whole call (module hash, options, function, output type, plain arguments, and
//! the kind and row shape of every tensor) and then those digests, one per tensor argument; where
//! rows have ids, the bytes of the id take the place of the digests. The digest of a row has no
//! framing, so that it can be hashed in the tensor's own memory.
//! Of rows with padding, only what comes before it is hashed, and its length is one more digest (in `padded.rs`).
//! Both levels hash many rows at once ([`blake3_batch`]); the second pads its last block with zeros,
//! which is unambiguous because the prefix determines the number of digests.
//! The layout is documented in `docs/format.md`; changing it bumps `FORMAT`.

mod padded;

use blake3::BLOCK_LEN;
use tch::{Device, TchError, Tensor};

use crate::argument::{Arguments, SharedDigests, TensorArgument};
use crate::device::{self, Digests};
use crate::options::Options;
use crate::schema::kind;
use crate::tensor::{blake3_batch, digest, layout, parallel, raw, staging};

pub(crate) use torchcache_store::Key;

/// Bumped whenever the same call would give other keys.
const FORMAT: u32 = 5;

/// The inputs of a key that are the same for every row of a call, except for its arguments.
#[derive(Debug)]
pub(crate) struct KeyContext<'a> {
    pub(crate) module_hash: &'a str,
    pub(crate) options: &'a Options,
    /// The name of the module or function, where the module hash is a `persistent_module_hash`.
    pub(crate) name: Option<&'a str>,
    /// Of the function, with its trait where that counts.
    pub(crate) function: &'a str,
    /// A digest of the code of the function and of those that it calls; the `version` of the method where the
    /// module hash is a `persistent_module_hash`, which stands for the code.
    pub(crate) code: &'a [u8],
    /// The structure of the output type.
    pub(crate) output: &'a str,
    /// Hashes the shared tensors that no device hashes.
    pub(crate) shared: &'a SharedDigests,
}

impl KeyContext<'_> {
    /// The keys of the rows of `arguments`, whose tensors are strided and share their first dimension; after the prefix
    /// that they have in common.
    ///
    /// # Errors
    ///
    /// Errors of libtorch when a tensor cannot be read.
    pub(crate) fn keys(&self, arguments: &Arguments) -> Result<(Key, Vec<Key>), TchError> {
        let (shared, digests) = self.digests(arguments)?;
        let prefix = self.prefix(arguments, &shared)?;
        let rows = digests.first().map_or(0, Vec::len);
        let length = (digests.len() * size_of::<Key>()).next_multiple_of(BLOCK_LEN);
        let mut messages = vec![0; rows * length];
        for (argument, digests) in digests.iter().enumerate() {
            let at = argument * size_of::<Key>();
            for (message, digest) in messages.chunks_exact_mut(length).zip(digests) {
                message[at..at + digest.len()].copy_from_slice(digest);
            }
        }
        let keys = blake3_batch::row_digests(&messages, rows, Some(&prefix));
        Ok((prefix, keys))
    }

    /// The digest of each shared tensor of the keys; and of each row of each batch, and the lengths of rows with
    /// padding, or the bytes of its id.
    fn digests(&self, arguments: &Arguments) -> Result<(Vec<Key>, Vec<Vec<Key>>), TchError> {
        let shared = tensors(arguments.keyed_shared());
        let batches = match arguments.ids {
            Some(_) => Vec::new(),
            None => tensors(arguments.keyed_tensors().filter(|it| it.padding.is_none())),
        };
        let subsample = self.options.subsample_count();
        let mut on_devices = digests_on_devices(&shared, &batches, subsample);
        let rows = on_devices.split_off(shared.len());
        let shared = shared.iter().enumerate().zip(on_devices);
        let shared = shared.map(|((place, tensor), on_device)| match on_device {
            Some(pieces) => digest::digest_of_pieces(tensor, &pieces),
            None => self.shared.digest(place, tensor),
        });
        let rows = batches.iter().zip(rows);
        let rows = rows.map(|(tensor, on_device)| match on_device {
            Some(digests) => Ok(digests),
            None => row_digests(tensor, subsample),
        });
        let rows = match &arguments.ids {
            Some(argument) => vec![argument.ids.key_bytes()?],
            None => {
                let mut rows: Vec<_> = rows.collect::<Result<_, _>>()?;
                if let Some(lengths) = arguments.row_lengths()? {
                    let padded = arguments.keyed_tensors().filter(|it| it.padding.is_some());
                    for argument in padded {
                        rows.push(padded::row_digests(&argument.tensor, &lengths, subsample)?);
                    }
                    rows.push(padded::length_bytes(&lengths));
                }
                rows
            }
        };
        Ok((shared.collect::<Result<_, _>>()?, rows))
    }

    fn prefix(&self, arguments: &Arguments, shared: &[[u8; 32]]) -> Result<[u8; 32], TchError> {
        let mut hasher = blake3::Hasher::new_derive_key("torchcache row key");
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&FORMAT.to_le_bytes());
        add(self.module_hash.as_bytes());
        // In a computed module hash already, but not in one given by `persistent_module_hash`.
        add(format!("{:?}", self.options.cache_dtype()).as_bytes());
        add(format!("{:?}", self.options.subsample_count()).as_bytes());
        add(self.options.version().as_bytes());
        if let Some(name) = self.name {
            add(name.as_bytes());
        }
        add(self.function.as_bytes());
        add(self.code);
        add(self.output.as_bytes());
        let autocast = raw::autocast_kinds();
        if autocast != [None; 2] {
            add(format!("autocast {autocast:?}").as_bytes());
        }
        for (position, digest) in &arguments.plain.digests {
            add(&(*position as u64).to_le_bytes());
            add(digest);
        }
        for (argument, digest) in arguments.keyed_shared().zip(shared) {
            add(&(argument.position as u64).to_le_bytes());
            add(b"shared");
            add(digest);
        }
        if let Some(argument) = &arguments.ids {
            add(&(argument.position as u64).to_le_bytes());
            add(argument.ids.kind().name().as_bytes());
        }
        let any_shape = arguments.ids.as_ref().is_some_and(|ids| ids.any_shape);
        if any_shape {
            add(b"any shape");
        }
        for argument in arguments.keyed_tensors() {
            add(&(argument.position as u64).to_le_bytes());
            add(&[kind::code(argument.tensor.f_kind()?)]);
            let shape = argument.tensor.size();
            let mut shape = &shape[1..];
            if let Some(padding) = argument.padding_bytes() {
                add(b"padded");
                add(padding);
                shape = &shape[1..];
            }
            if !any_shape {
                let extents = shape.iter().flat_map(|extent| extent.to_le_bytes());
                add(&extents.collect::<Vec<_>>());
            }
        }
        Ok(*hasher.finalize().as_bytes())
    }
}

fn tensors<'a>(arguments: impl Iterator<Item = &'a TensorArgument>) -> Vec<&'a Tensor> {
    arguments.map(|argument| &argument.tensor).collect()
}

/// What CUDA devices hash of a call: the pieces of each shared tensor, and then the rows of each batch. `None` where the
/// host has to hash.
///
/// One copy brings all digests of a device, since the host waits for each copy. The sums by which weights are compared
/// have a copy of their own: they are needed before, to know which cache, and so which options, the call has. Shared
/// tensors are not compared by such sums: 64 bits are enough to notice a change, but not to tell rows apart.
fn digests_on_devices(
    shared: &[&Tensor],
    batches: &[&Tensor],
    subsample: Option<usize>,
) -> Vec<Option<Vec<Key>>> {
    let rows_device = |tensor: &&Tensor| {
        let can_hash = |_: &usize| {
            let bytes = copied_bytes(tensor, subsample);
            bytes.is_ok_and(|bytes| bytes <= layout::MAX_COPY_BYTES)
        };
        raw::cuda_device(tensor).filter(can_hash)
    };
    let of_shared = shared.iter().map(|tensor| digest::hashing_device(tensor));
    let devices: Vec<_> = of_shared.chain(batches.iter().map(rows_device)).collect();
    let all = [shared, batches].concat();
    device::on_each(&devices, |device, places| {
        let here: Vec<_> = places.iter().map(|&place| all[place]).collect();
        let (shared, batches) = here.split_at(places.partition_point(|&at| at < shared.len()));
        digests_on_device(device, shared, batches, subsample)
    })
}

/// What one device hashes. `None` where it cannot.
fn digests_on_device(
    device: usize,
    shared: &[&Tensor],
    batches: &[&Tensor],
    subsample: Option<usize>,
) -> Option<Vec<Vec<Key>>> {
    let rows = |tensor: &Tensor| tensor.size()[0] as usize;
    let pieces = shared.iter().map(|tensor| digest::piece_count(tensor));
    let pieces: Vec<_> = pieces.collect::<Result<_, _>>().ok()?;
    let distinct = batches.iter().map(|tensor| distinct_rows(tensor));
    let distinct: Vec<_> = distinct.collect::<Result<_, _>>().ok()?;
    let count: usize = pieces
        .iter()
        .copied()
        .chain(distinct.iter().map(rows))
        .sum();
    let mut digests = Digests::new(device, count)?;
    digest::add_tensors(&mut digests, shared)?;
    for tensor in &distinct {
        add_rows(&mut digests, tensor, subsample)?;
    }
    let mut digests = digests.copy_to_host()?.into_iter();
    let mut next = |count| digests.by_ref().take(count).collect::<Vec<_>>();
    let mut of_tensors: Vec<_> = pieces.into_iter().map(&mut next).collect();
    for (tensor, distinct) in batches.iter().zip(&distinct) {
        let digests = next(rows(distinct));
        of_tensors.push(match digests[..] {
            [only] => vec![only; rows(tensor)],
            _ => digests,
        });
    }
    Some(of_tensors)
}

/// Has a device hash the rows of a tensor. They are copied there, some rows at a time, where they are not contiguous.
fn add_rows(digests: &mut Digests, tensor: &Tensor, subsample: Option<usize>) -> Option<()> {
    let samples = digests.note_error(Samples::of_rows(tensor, subsample))?;
    if samples.is_none()
        && let Some(rows) = raw::device_rows(tensor)
    {
        return digests.add_rows(&rows);
    }
    let copied = digests.note_error(copied_bytes(tensor, subsample))?;
    let (rows, count) = (tensor.size()[0], layout::slices_in_part(copied) as i64);
    for start in (0..rows).step_by(count as usize) {
        let part = contiguous_part(tensor, start, count.min(rows - start), samples.as_ref());
        let part = digests.note_error(part)?;
        digests.add_rows(&raw::device_rows(&part)?)?;
    }
    Some(())
}

/// Some rows of a tensor, or the samples of these, as contiguous memory on its device.
fn contiguous_part(
    tensor: &Tensor,
    start: i64,
    count: i64,
    samples: Option<&Samples>,
) -> Result<Tensor, TchError> {
    let part = tensor.f_narrow(0, start, count)?;
    match samples {
        Some(samples) => layout::contiguous(&samples.select(&part)?),
        None => layout::contiguous(&part),
    }
}

/// So many bytes of each row of a tensor are copied on its CUDA device before they are hashed there.
fn copied_bytes(tensor: &Tensor, subsample: Option<usize>) -> Result<usize, TchError> {
    let elements = row_elements(tensor);
    let copied = match raw::device_rows(tensor) {
        Some(_) => subsample.filter(|&count| count < elements).unwrap_or(0),
        None => elements,
    };
    Ok(copied * tensor.f_kind()?.elt_size_in_bytes())
}

/// The rows of a tensor, or the first one where all are in its memory.
fn distinct_rows(tensor: &Tensor) -> Result<Tensor, TchError> {
    match layout::has_equal_rows(tensor) {
        true => tensor.f_narrow(0, 0, 1),
        false => tensor.f_detach(),
    }
}

/// BLAKE3 of each row's bytes, on the host.
fn row_digests(tensor: &Tensor, subsample: Option<usize>) -> Result<Vec<Key>, TchError> {
    let rows = tensor.size()[0];
    if rows > 1 && layout::has_equal_rows(tensor) {
        let first = row_digests(&tensor.f_narrow(0, 0, 1)?, subsample)?;
        return Ok(vec![first[0]; rows as usize]);
    }
    let digests = |rows: i64, tensor: &Tensor| -> Result<_, TchError> {
        let bytes = raw::view(tensor)?;
        Ok(blake3_batch::row_digests(bytes, rows as usize, None))
    };
    let tensor = tensor.f_detach()?;
    let samples = Samples::of_rows(&tensor, subsample)?;
    if samples.is_none() && raw::view(&tensor).is_ok() {
        return digests(rows, &tensor);
    }
    // Others are copied, some rows at a time.
    let row_bytes = row_elements(&tensor) * tensor.f_kind()?.elt_size_in_bytes();
    let count = layout::slices_in_part(row_bytes) as i64;
    let mut all = Vec::with_capacity(rows as usize);
    for start in (0..rows).step_by(count as usize) {
        let count = count.min(rows - start);
        let part = tensor.f_narrow(0, start, count)?;
        match &samples {
            Some(samples) => {
                let part = layout::on_cpu(&samples.select(&part)?)?;
                all.extend(digests(count, &part)?);
            }
            None if count > 1 => all.extend(digests(count, &layout::on_cpu(&part)?)?),
            None => {
                let mut hasher = blake3::Hasher::new();
                layout::for_each_part(&part, &mut |bytes| parallel::update(&mut hasher, bytes))?;
                all.push(*hasher.finalize().as_bytes());
            }
        }
    }
    Ok(all)
}

fn row_elements(tensor: &Tensor) -> usize {
    tensor.numel() / tensor.size()[0].max(1) as usize
}

/// Evenly spaced elements of each row, the first among them.
enum Samples {
    Spacing(i64),
    /// On the device of the tensor.
    Positions(Tensor),
}

impl Samples {
    /// So many of each row of `tensor`; `None` for all elements.
    fn of_rows(tensor: &Tensor, count: Option<usize>) -> Result<Option<Self>, TchError> {
        let elements = row_elements(tensor);
        let count = count.filter(|&count| count < elements);
        let samples = count.map(|count| Samples::new(count, elements, tensor.device()));
        samples.transpose()
    }

    /// `count` of `elements` elements, which are more.
    fn new(count: usize, elements: usize, device: Device) -> Result<Self, TchError> {
        if elements.is_multiple_of(count) {
            // No index, which would be copied to a device.
            return Ok(Samples::Spacing((elements / count) as i64));
        }
        let positions: Vec<i64> = layout::sample_positions(count, elements).collect();
        staging::numbers(&positions, device).map(Samples::Positions)
    }

    /// The samples of each row.
    fn select(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        let rows = rows.f_reshape([rows.size()[0], -1])?;
        match self {
            Samples::Spacing(spacing) => rows.f_slice(1, None, None, *spacing),
            Samples::Positions(positions) => rows.f_index_select(1, positions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argument::ArgumentProbe;
    use tch::Kind;

    fn keys(options: &Options, arguments: Arguments) -> Vec<Key> {
        with_prefix(options, &arguments).1
    }

    fn with_prefix(options: &Options, arguments: &Arguments) -> (Key, Vec<Key>) {
        let context = KeyContext {
            module_hash: "m",
            options,
            name: None,
            function: "forward",
            code: &[7; 32],
            output: "T",
            shared: &SharedDigests::new(),
        };
        context.keys(arguments).unwrap()
    }

    #[test]
    fn the_prefix_and_an_id_are_a_key() {
        use torchcache_store::ids::{self, IdKind};
        let given = [("train", 7i64), ("test", -1)];
        let ids = &given[..];
        let arguments = Arguments::new().with_id(&ids);
        let (prefix, keys) = with_prefix(&Options::default(), &arguments);
        for (key, (name, number)) in keys.iter().zip(given) {
            let id = ids::tuple([
                (IdKind::Text, ids::bytes(name.as_bytes())),
                (
                    IdKind::Integer,
                    ids::integer(&number.to_le_bytes(), number < 0),
                ),
            ]);
            assert_eq!(ids::row_key(&prefix, &id), *key);
        }
    }

    fn keys_of(tensor: &Tensor) -> Vec<Key> {
        keys(&Options::default(), Arguments::new().with(&tensor))
    }

    #[test]
    fn a_key_is_independent_of_batch_and_strides() {
        let batch = Tensor::randn([6, 3, 4], tch::kind::FLOAT_CPU);
        let keys = keys_of(&batch);
        assert_eq!(keys_of(&batch.narrow(0, 2, 2)), keys[2..4]);
        assert_eq!(
            keys_of(&batch.flip([0])),
            keys.iter().rev().copied().collect::<Vec<_>>()
        );
        let strided = batch.transpose(1, 2).contiguous().transpose(1, 2);
        assert!(!strided.is_contiguous());
        assert_eq!(keys_of(&strided), keys);
    }

    /// Of each kind of strides: expanded over the rows and within a row, transposed, every other row.
    #[test]
    fn a_large_strided_batch_has_the_keys_of_its_copy() {
        let float = (Kind::Float, Device::Cpu);
        let long = Tensor::rand([1, 5_000_001], float);
        for (batch, distinct) in [
            (long.expand([3, 5_000_001], false), 1),
            (
                Tensor::rand([3, 1, 2], float).expand([3, 2_500_001, 2], false),
                3,
            ),
            (Tensor::rand([3_001, 2_003], float).tr(), 2_003),
            (Tensor::rand([6, 1_500_001], float).slice(0, 0, 6, 2), 3),
            (Tensor::rand([1, 3], float).expand([100_000, 3], false), 1),
            (Tensor::rand([1], float).expand([1_000], false), 1),
        ] {
            let keys = keys_of(&batch);
            assert_eq!(keys, keys_of(&batch.contiguous()), "{:?}", batch.size());
            let set: std::collections::HashSet<_> = keys.iter().collect();
            assert_eq!(set.len(), distinct, "{:?}", batch.size());
        }
    }

    #[test]
    fn every_bit_is_hashed() {
        let mut seen = std::collections::HashSet::new();
        for row in [
            Tensor::from_slice(&[0.0f32]),
            Tensor::from_slice(&[-0.0f32]),
            Tensor::from_slice(&[f32::NAN]),
            Tensor::from_slice(&[f32::from_bits(0x7fc0_0001)]),
            Tensor::from_slice(&[0i32]),
            Tensor::from_slice(&[0i64]),
            Tensor::from_slice(&[0.0f32]).view([1, 1]),
            Tensor::zeros([1, 0], tch::kind::FLOAT_CPU),
            Tensor::zeros([1, 0, 2], tch::kind::FLOAT_CPU),
        ] {
            assert!(seen.insert(keys_of(&row)[0]), "{row:?}");
        }
    }

    #[test]
    fn a_conjugated_view_has_keys_of_its_own() {
        let tensor = Tensor::complex(&Tensor::from_slice(&[1f32]), &Tensor::from_slice(&[2f32]));
        assert_ne!(keys_of(&tensor.conj()), keys_of(&tensor));
        assert_eq!(
            keys_of(&tensor.conj()),
            keys_of(&tensor.conj().resolve_conj())
        );
    }

    #[test]
    fn position_and_type_of_arguments_are_hashed() {
        let x = &Tensor::from_slice(&[1f32, 2.0]);
        let y = &Tensor::from_slice(&[3f32, 4.0]);
        let plain = Options::default();
        let mut seen = std::collections::HashSet::new();
        for arguments in [
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&2.0f64))
                .with(&ArgumentProbe::new(&3.0f64)),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&3.0f64))
                .with(&ArgumentProbe::new(&2.0f64)),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&1i64))
                .with(&ArgumentProbe::new(&1i64)),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&2i64))
                .with(&ArgumentProbe::new(&2i64)),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&1i32))
                .with(&ArgumentProbe::new(&1i64)),
            Arguments::new().with(&x).with(&ArgumentProbe::new(&1i64)),
            Arguments::new().with(&ArgumentProbe::new(&1i64)).with(&x),
            Arguments::new().with(&x).with(&y),
            Arguments::new().with(&y).with(&x),
            Arguments::new().with(&x).with(&None::<&Tensor>),
            Arguments::new().with(&x).with(&Some(x)),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&"ab"))
                .with(&ArgumentProbe::new(&"c")),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&"a"))
                .with(&ArgumentProbe::new(&"bc")),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&[1u8, 2].as_slice())),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&Kind::Half)),
            Arguments::new()
                .with(&x)
                .with(&ArgumentProbe::new(&Device::Cpu)),
            Arguments::new().with(&[x].as_slice()),
            Arguments::new().with(&[x, y].as_slice()),
            Arguments::new().with(&x).with(&[y].as_slice()),
            Arguments::new().with(&x).with(&[].as_slice() as &&[Tensor]),
            Arguments::new().with(&(x, y)),
            Arguments::new().with(&(x, (y,))),
            Arguments::new().with(&[Some(x), None].as_slice()),
            Arguments::new().with(&[None, Some(x)].as_slice()),
            Arguments::new().with(&(x, 1i64)),
            Arguments::new().with(&(1i64, x)),
            Arguments::new().with(&Some(Some(x))),
            Arguments::new().with(&x).with_shared(&x),
            Arguments::new().with(&x).with_shared(&y),
            Arguments::new().with(&x).with_shared(&None::<&Tensor>),
            Arguments::new().with(&x).with_shared(&y.view([2, 1])),
            Arguments::new().with(&x).with_id(&[1i64, 2].as_slice()),
            Arguments::new().with(&x).with_id(&["1", "2"].as_slice()),
            Arguments::new()
                .with(&x.to_kind(Kind::Double))
                .with_id(&[1i64, 2].as_slice()),
            Arguments::new().with_id(&[1i64, 2].as_slice()),
        ] {
            let keys = keys(&plain, arguments);
            assert_ne!(keys[0], keys[1]);
            assert!(seen.insert(keys[0]));
        }
    }

    #[test]
    fn with_ids_the_content_is_not_hashed() {
        let by_id = |value: f64, ids: &[i64]| {
            let xs = Tensor::full([2, 3], value, tch::kind::FLOAT_CPU);
            keys(
                &Options::default(),
                Arguments::new().with(&xs).with_id(&ids),
            )
        };
        assert_eq!(by_id(1.0, &[4, 5]), by_id(2.0, &[4, 5]));
        assert_eq!(by_id(1.0, &[4, 5])[0], by_id(1.0, &[6, 4])[1]);
        let tensor = Tensor::from_slice(&[4i32, 5]);
        let xs = Tensor::zeros([2, 3], tch::kind::FLOAT_CPU);
        let ids = &tensor;
        let arguments = Arguments::new().with(&xs).with_id(&ids);
        assert_eq!(keys(&Options::default(), arguments), by_id(1.0, &[4, 5]));
    }

    #[test]
    fn subsampling_hashes_only_the_samples() {
        let options = Options::builder().subsample_count(2).build().unwrap();
        let row = |values: [f32; 4]| {
            let tensor = Tensor::from_slice(&values).view([1, 4]);
            keys(&options, Arguments::new().with(&&tensor))[0]
        };
        assert_eq!(row([1.0, 2.0, 3.0, 4.0]), row([1.0, 9.0, 3.0, 9.0]));
        assert_ne!(row([1.0, 2.0, 3.0, 4.0]), row([1.0, 2.0, 9.0, 4.0]));
    }

    #[test]
    fn keys_are_the_same_in_every_release() {
        let keys = keys_of(&Tensor::from_slice(&[1.5f32]));
        // A golden value: if it changes, so must FORMAT, which makes old rows expire.
        assert_eq!(
            blake3::Hash::from_bytes(keys[0]).to_hex().as_str(),
            "c55aef261d56eb0962c10dd0ca1d2ef0043f5918cdb263d936d5fe85f7b7563f"
        );
    }
}
