//! `pytorch_model.bin`: what `torch.save` writes of a dictionary of tensors, read without running any of it.
//!
//! Such a file is a pickle, a program for a small machine that may call anything in Python. Here its few instructions
//! that build dictionaries and tensors are understood, and everything else is refused by name. Both containers are read:
//! a zip archive (torch 1.6 and later) and the older one of five pickles followed by the numbers.

mod pickle;
mod zip;

use pickle::{Storage, Value};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// The older container begins with the pickle of this number.
const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const TRUNCATED: &str = "the file is not whole: it was cut off on its way here. Fetch it once more, and compare its size \
                         with what the other side says";

/// The tensors of the file, sorted by name, on the processor: floating-point ones as float32, integers as int64. The
/// error says what is wrong, and what to do.
pub(crate) fn read(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    if bytes.is_empty() {
        return Err(TRUNCATED.to_owned());
    }
    let mut tensors = if bytes.starts_with(b"PK") { of_archive(bytes)? } else { of_pickles(bytes)? };
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(tensors)
}

fn of_archive(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let archive = zip::Archive::open(bytes)?;
    let program = archive.names().find(|name| name.ends_with("/data.pkl")).map(str::to_owned);
    let program = program.ok_or("the archive has no data.pkl: it is not what torch.save writes")?;
    let folder = program.trim_end_matches("data.pkl");
    if let Ok(order) = archive.file(&format!("{folder}byteorder"))
        && order != b"little"
    {
        return Err("its numbers are big-endian; save it on a little-endian machine".to_owned());
    }
    let (value, _) = pickle::run(archive.file(&program)?)?;
    named(&value, true, &|storage| archive.file(&format!("{folder}data/{}", storage.key)))
}

fn of_pickles(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let mut at = 0;
    let mut next = || -> Result<Value, String> {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty()).ok_or(TRUNCATED)?;
        let (value, length) = pickle::run(rest)?;
        at += length;
        Ok(value)
    };
    match next() {
        Ok(Value::Long(MAGIC)) => {}
        // A file that ends here may have begun well; anything else is another format.
        Err(error) if error == TRUNCATED => return Err(error),
        _ => return Err("it is not what torch.save writes; save the model with `save_pretrained(folder)`".to_owned()),
    }
    // The version of the container and what the machine was: neither changes how the rest is read.
    next()?;
    next()?;
    let (value, keys) = (next()?, next()?);
    let Value::List(keys) = keys else { return Err("the list of its storages is damaged".to_owned()) };
    let mut sizes = BTreeMap::new();
    collect_storages(&value, DEPTH, &mut sizes);
    // For each storage its number of elements, and those.
    let mut storages: BTreeMap<String, &[u8]> = BTreeMap::new();
    for key in keys.borrow().iter() {
        let Value::Text(key) = key else { return Err("the list of its storages is damaged".to_owned()) };
        let count = bytes.get(at..at + 8).ok_or(TRUNCATED)?;
        let count = u64::from_le_bytes(count.try_into().unwrap_or_default());
        let element = sizes.get(&**key).copied().ok_or_else(|| format!("storage {key} belongs to no tensor"))?;
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(element)).ok_or(TRUNCATED)?;
        let end = (at + 8).checked_add(length).ok_or(TRUNCATED)?;
        storages.insert(key.to_string(), bytes.get(at + 8..end).ok_or(TRUNCATED)?);
        at = end;
    }
    named(&value, true, &|storage| {
        storages.get(&*storage.key).copied().ok_or_else(|| format!("there is no storage {}", storage.key))
    })
}

/// Dictionaries in dictionaries: what a training program saves has not even two.
const DEPTH: usize = 4;

/// Bytes of an element of each storage.
fn collect_storages(value: &Value, depth: usize, sizes: &mut BTreeMap<String, usize>) {
    match value {
        Value::Tensor(tensor) => {
            sizes.insert(tensor.storage.key.to_string(), tensor.storage.kind.elt_size_in_bytes());
        }
        Value::Dict(pairs) if depth > 0 => {
            pairs.borrow().iter().for_each(|(_, value)| collect_storages(value, depth - 1, sizes));
        }
        _ => {}
    }
}

/// The tensors of a dictionary, or of one in it where it may be `nested`.
fn named<'a>(
    value: &Value,
    nested: bool,
    bytes: &dyn Fn(&Storage) -> Result<&'a [u8], String>,
) -> Result<Vec<(String, Tensor)>, String> {
    let Value::Dict(pairs) = value else {
        return Err(
            "it holds no dictionary of tensors: save `model.state_dict()`, or use `save_pretrained(folder)`".into()
        );
    };
    let pairs = pairs.borrow();
    // What a training program saves: the weights are one of its entries.
    let inner = pairs.iter().find(|(key, value)| {
        matches!(key, Value::Text(key) if &**key == "state_dict" || &**key == "model")
            && matches!(value, Value::Dict(_))
    });
    if let Some((_, inner)) = inner {
        // Once: a dictionary may even hold itself.
        return if nested { named(inner, false, bytes) } else { Err("its dictionaries lie in one another".to_owned()) };
    }
    pairs
        .iter()
        .map(|(key, value)| match (key, value) {
            (Value::Text(name), Value::Tensor(tensor)) => {
                let made = make(tensor, bytes(&tensor.storage)?).map_err(|why| format!("{name}: {why}"))?;
                Ok((name.to_string(), made))
            }
            (Value::Text(name), _) => Err(format!("`{name}` is no tensor: save `model.state_dict()` alone")),
            _ => Err("a key of its dictionary is no name".to_owned()),
        })
        .collect()
}

fn make(tensor: &pickle::TensorValue, bytes: &[u8]) -> Result<Tensor, String> {
    let pickle::TensorValue { storage, offset, size, stride } = tensor;
    let element = storage.kind.elt_size_in_bytes();
    let elements = bytes.len() / element;
    if size.len() != stride.len() || size.iter().chain(stride).any(|number| *number < 0) || *offset < 0 {
        return Err(format!("the size {size:?} and the stride {stride:?} do not fit together"));
    }
    let mut last = Some(*offset);
    for (size, stride) in size.iter().zip(stride) {
        let step = (size - 1).max(0).checked_mul(*stride);
        last = last.and_then(|last| step.and_then(|step| last.checked_add(step)));
    }
    let empty = size.contains(&0);
    // A row may be there many times over, but a weight is never larger than what it is stored in.
    let all = size.iter().try_fold(1i64, |all, size| all.checked_mul(*size));
    if all.is_none_or(|all| usize::try_from(all).is_ok_and(|all| all > elements)) {
        return Err(format!("{size:?} are more elements than the {elements} of its storage"));
    }
    if !empty && last.is_none_or(|last| usize::try_from(last).is_ok_and(|last| last >= elements)) {
        return Err(format!("its storage of {elements} elements is shorter than {size:?}: {TRUNCATED}"));
    }
    let count = i64::try_from(elements).map_err(|error| error.to_string())?;
    let kind = match storage.kind {
        Kind::Bool => Kind::Bool,
        Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double => Kind::Float,
        _ => Kind::Int64,
    };
    let whole = &bytes[..elements * element];
    let flat = Tensor::f_from_data_size(whole, &[count], storage.kind).map_err(|error| error.to_string())?;
    let view = flat.f_as_strided(size, stride, Some(*offset)).map_err(|error| error.to_string())?;
    // A copy of its own: several tensors may share a storage.
    let view = view.f_to_kind(kind).and_then(|view| view.f_contiguous()).and_then(|view| view.f_detach_copy());
    view.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pickle::TensorValue;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn a_dictionary_that_holds_itself_is_refused() {
        let pairs = Rc::new(RefCell::new(Vec::new()));
        pairs.borrow_mut().push((Value::Text("state_dict".into()), Value::Dict(pairs.clone())));
        let error = named(&Value::Dict(pairs.clone()), true, &|_| Err("never asked".to_owned())).unwrap_err();
        assert!(error.contains("lie in one another"), "{error}");
        collect_storages(&Value::Dict(pairs.clone()), DEPTH, &mut BTreeMap::new());
        pairs.borrow_mut().clear();
    }

    #[test]
    fn no_tensor_is_larger_than_its_storage() {
        let storage = Rc::new(Storage { kind: Kind::Float, key: "0".into() });
        let of = |size: &[i64], stride: &[i64]| {
            let value =
                TensorValue { storage: storage.clone(), offset: 0, size: size.to_vec(), stride: stride.to_vec() };
            make(&value, &[0; 24])
        };
        assert_eq!(of(&[2, 3], &[3, 1]).unwrap().size(), [2, 3]);
        assert_eq!(of(&[3, 2], &[1, 3]).unwrap().size(), [3, 2], "transposed");
        // `torch.zeros(1).expand(1 << 42)` is a file of 1.6 kB.
        for size in [vec![1 << 42], vec![1 << 40, 1 << 40]] {
            let error = of(&size, &vec![0; size.len()]).unwrap_err();
            assert!(error.contains("more elements than the 6"), "{error}");
        }
    }
}
