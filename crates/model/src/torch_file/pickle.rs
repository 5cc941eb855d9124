//! The part of Python's pickle machine that a dictionary of tensors needs. It builds values and calls nothing.

use super::TRUNCATED;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tch::Kind;

/// What stands on the machine's stack.
#[derive(Clone, Debug)]
pub enum Value {
    None,
    Bool,
    Long(i128),
    Float,
    Text(Rc<str>),
    Tuple(Rc<[Value]>),
    List(Rc<RefCell<Vec<Value>>>),
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// `module name`, of the few that are known.
    Global(Known),
    Storage(Rc<Storage>),
    Tensor(Rc<TensorValue>),
}

/// Names of Python that a program may use. None of them is ever called.
#[derive(Clone, Copy, Debug)]
pub enum Known {
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: the tensor of a storage, an offset, a size and a stride.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`: its first argument.
    RebuildParameter,
    Storage(Kind),
}

/// Numbers, which lie elsewhere in the file.
#[derive(Debug)]
pub struct Storage {
    pub kind: Kind,
    pub key: Rc<str>,
}

/// A view of a storage.
#[derive(Debug)]
pub struct TensorValue {
    pub storage: Rc<Storage>,
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
}

/// Runs the program at the beginning of `bytes`: what it leaves, and how long it is.
pub fn run(bytes: &[u8]) -> Result<(Value, usize), String> {
    Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }.run()
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

impl Machine<'_> {
    fn run(mut self) -> Result<(Value, usize), String> {
        loop {
            let code = self.array::<1>()?[0];
            match code {
                0x80 => drop(self.array::<1>()?),          // PROTO
                0x95 => drop(self.array::<8>()?),          // FRAME
                b'.' => return Ok((self.pop()?, self.at)), // STOP
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'N' => self.stack.push(Value::None),
                0x88 | 0x89 => self.stack.push(Value::Bool),
                b'K' | b'M' | b'J' | 0x8a => {
                    let number = self.integer(code)?;
                    self.stack.push(Value::Long(number));
                }
                b'G' => {
                    self.array::<8>()?;
                    self.stack.push(Value::Float);
                }
                b'X' | 0x8c | 0x8d => {
                    let text = self.text(code)?;
                    self.stack.push(Value::Text(text));
                }
                b'q' | b'r' | 0x94 | b'h' | b'j' => self.remember(code)?,
                b')' | 0x85 | 0x86 | 0x87 | b't' => {
                    let items = match code {
                        b't' => self.from_mark()?,
                        b')' => Vec::new(),
                        // TUPLE1 to TUPLE3
                        count => self.last(usize::from(count - 0x84))?,
                    };
                    self.stack.push(Value::Tuple(items.into()));
                }
                b']' => self.stack.push(Value::List(Rc::default())),
                b'}' => self.stack.push(Value::Dict(Rc::default())),
                b'a' | b'e' => {
                    let items = if code == b'a' { self.last(1)? } else { self.from_mark()? };
                    let Some(Value::List(list)) = self.stack.last() else { return Err(damaged("no list to add to")) };
                    list.borrow_mut().extend(items);
                }
                b's' | b'u' => {
                    let items = if code == b's' { self.last(2)? } else { self.from_mark()? };
                    let Some(Value::Dict(pairs)) = self.stack.last() else { return Err(damaged("no dictionary")) };
                    let mut pairs = pairs.borrow_mut();
                    let mut items = items.into_iter();
                    while let (Some(key), Some(value)) = (items.next(), items.next()) {
                        pairs.push((key, value));
                    }
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Global(known(&module, &name)?));
                }
                0x93 => {
                    let names = self.last(2)?;
                    let [Value::Text(module), Value::Text(name)] = &names[..] else { return Err(damaged("no name")) };
                    self.stack.push(Value::Global(known(module, name)?));
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.stack.push(storage(&id)?);
                }
                b'R' => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    self.stack.push(reduce(&function, &arguments)?);
                }
                // Attributes of what was built (a dictionary's `_metadata`): nothing here has any.
                b'b' => drop(self.pop()?),
                other => {
                    return Err(format!(
                        "its pickle has the instruction {other:#04x}, which no dictionary of tensors needs: save \
                         `model.state_dict()`, or use `save_pretrained(folder)`"
                    ));
                }
            }
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| TRUNCATED.to_owned())
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(count).ok_or(TRUNCATED)?;
        let taken = self.bytes.get(self.at..end).ok_or(TRUNCATED)?;
        self.at = end;
        Ok(taken)
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.bytes[self.at..].iter().position(|byte| *byte == b'\n').ok_or(TRUNCATED)?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    fn integer(&mut self, code: u8) -> Result<i128, String> {
        Ok(match code {
            b'K' => i128::from(self.array::<1>()?[0]),
            b'M' => i128::from(u16::from_le_bytes(self.array()?)),
            b'J' => i128::from(i32::from_le_bytes(self.array()?)),
            // LONG1: two's complement, little-endian.
            _ => {
                let length = usize::from(self.array::<1>()?[0]);
                let bytes = self.take(length)?;
                if length > 16 {
                    return Err(damaged("a number is too long"));
                }
                let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                let mut wide = [if negative { 0xff } else { 0 }; 16];
                wide[..length].copy_from_slice(bytes);
                i128::from_le_bytes(wide)
            }
        })
    }

    fn text(&mut self, code: u8) -> Result<Rc<str>, String> {
        let length = match code {
            b'X' => u64::from(u32::from_le_bytes(self.array()?)),
            0x8c => u64::from(self.array::<1>()?[0]),
            _ => u64::from_le_bytes(self.array()?),
        };
        let bytes = self.take(usize::try_from(length).map_err(|_| TRUNCATED)?)?;
        std::str::from_utf8(bytes).map(Rc::from).map_err(|_| damaged("a name is no text"))
    }

    /// PUT (of two lengths, or the next free place) and GET (of two lengths).
    fn remember(&mut self, code: u8) -> Result<(), String> {
        let key = match code {
            b'q' | b'h' => u32::from(self.array::<1>()?[0]),
            b'r' | b'j' => u32::from_le_bytes(self.array()?),
            _ => u32::try_from(self.memo.len()).map_err(|_| damaged("too many values"))?,
        };
        if matches!(code, b'h' | b'j') {
            let value = self.memo.get(&key).cloned().ok_or_else(|| damaged("a value that was never put by"))?;
            self.stack.push(value);
        } else {
            let value = self.stack.last().cloned().ok_or_else(|| damaged("nothing to put by"))?;
            self.memo.insert(key, value);
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| damaged("the stack is empty"))
    }

    fn last(&mut self, count: usize) -> Result<Vec<Value>, String> {
        let from = self.stack.len().checked_sub(count).ok_or_else(|| damaged("the stack is empty"))?;
        Ok(self.stack.split_off(from))
    }

    fn from_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len()).ok_or_else(|| damaged("no mark"))?;
        Ok(self.stack.split_off(mark))
    }
}

fn damaged(what: &str) -> String {
    format!("its pickle is damaged ({what}): fetch the file once more")
}

fn known(module: &str, name: &str) -> Result<Known, String> {
    let kind = |kind| Ok(Known::Storage(kind));
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Known::OrderedDict),
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Ok(Known::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Known::RebuildParameter),
        ("torch", "FloatStorage") => kind(Kind::Float),
        ("torch", "HalfStorage") => kind(Kind::Half),
        ("torch", "BFloat16Storage") => kind(Kind::BFloat16),
        ("torch", "DoubleStorage") => kind(Kind::Double),
        ("torch", "LongStorage") => kind(Kind::Int64),
        ("torch", "IntStorage") => kind(Kind::Int),
        ("torch", "ShortStorage") => kind(Kind::Int16),
        ("torch", "CharStorage") => kind(Kind::Int8),
        ("torch", "ByteStorage") => kind(Kind::Uint8),
        ("torch", "BoolStorage") => kind(Kind::Bool),
        _ => Err(format!(
            "it asks for `{module}.{name}`, which is not run here: a file of weights needs nothing of the kind. Save \
             `model.state_dict()`, or use `save_pretrained(folder)`; and do not open the file elsewhere unless you trust \
             who made it"
        )),
    }
}

/// `('storage', type, key, where, count)`, and in older files a sixth that is None.
fn storage(id: &Value) -> Result<Value, String> {
    match id {
        Value::Tuple(parts) => match &parts[..] {
            [Value::Text(word), Value::Global(Known::Storage(kind)), Value::Text(key), ..] if &**word == "storage" => {
                if matches!(parts.get(5), Some(Value::Tuple(_))) {
                    return Err(
                        "it has views of storages, as torch before 0.4 wrote them: save it once more".to_owned()
                    );
                }
                Ok(Value::Storage(Rc::new(Storage { kind: *kind, key: key.clone() })))
            }
            _ => Err(damaged("a storage that is none")),
        },
        _ => Err(damaged("a storage that is none")),
    }
}

fn reduce(function: &Value, arguments: &Value) -> Result<Value, String> {
    let Value::Tuple(arguments) = arguments else { return Err(damaged("no arguments")) };
    match (function, &arguments[..]) {
        (Value::Global(Known::OrderedDict), []) => Ok(Value::Dict(Rc::default())),
        (Value::Global(Known::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
        (
            Value::Global(Known::RebuildTensor),
            [Value::Storage(storage), Value::Long(offset), Value::Tuple(size), Value::Tuple(stride), ..],
        ) => {
            let numbers = |values: &[Value]| -> Option<Vec<i64>> {
                values
                    .iter()
                    .map(|value| if let Value::Long(it) = value { i64::try_from(*it).ok() } else { None })
                    .collect()
            };
            let (Some(size), Some(stride), Ok(offset)) = (numbers(size), numbers(stride), i64::try_from(*offset))
            else {
                return Err(damaged("the size of a tensor"));
            };
            Ok(Value::Tensor(Rc::new(TensorValue { storage: storage.clone(), offset, size, stride })))
        }
        _ => Err(damaged("a call that builds no tensor")),
    }
}
