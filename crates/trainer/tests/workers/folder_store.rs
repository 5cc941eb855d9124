//! A key-value store in a folder, for workers that are processes of one machine: one file a key.

use c10d::{KeyValueStore, StoreError};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Keys are files of `folder`; a lock file makes `add` and `compare_set` atomic.
pub struct FolderStore {
    folder: PathBuf,
}

impl FolderStore {
    pub fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("k{}", hex::encode(key)))
    }

    fn read(&self, key: &str) -> Option<Vec<u8>> {
        fs::read(self.path(key)).ok()
    }

    fn locked<T>(&self, act: impl FnOnce() -> T) -> T {
        let lock = fs::File::create(self.folder.join("lock")).unwrap();
        lock.lock().unwrap();
        act()
    }
}

impl KeyValueStore for FolderStore {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        // Written aside and renamed, so that nobody reads half a value.
        let aside = self.folder.join(format!("t{}-{}", std::process::id(), hex::encode(key)));
        fs::write(&aside, value).unwrap();
        fs::rename(aside, self.path(key)).unwrap();
        Ok(())
    }

    fn get(&self, key: &str, timeout: Duration) -> Result<Vec<u8>, StoreError> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(value) = self.read(key) {
                return Ok(value);
            }
            if Instant::now() > end {
                return Err(StoreError::Timeout { keys: key.to_owned(), timeout });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, StoreError> {
        self.locked(|| {
            let old = self.read(key).map_or(0, |text| String::from_utf8(text).unwrap().parse().unwrap());
            let sum: i64 = old + amount;
            self.set(key, sum.to_string().as_bytes())?;
            Ok(sum)
        })
    }

    fn compare_set(&self, key: &str, expected: &[u8], desired: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.locked(|| {
            let old = self.read(key);
            if old.as_deref().unwrap_or_default() == expected {
                self.set(key, desired)?;
                return Ok(desired.to_vec());
            }
            Ok(old.unwrap_or_else(|| expected.to_vec()))
        })
    }

    fn wait(&self, keys: &[String], timeout: Duration) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| self.get(key, timeout).map(|_| ()))
    }

    fn check(&self, keys: &[String]) -> Result<bool, StoreError> {
        Ok(keys.iter().all(|key| self.path(key).exists()))
    }

    fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(fs::remove_file(self.path(key)).is_ok())
    }

    fn count(&self) -> Result<i64, StoreError> {
        let entries = fs::read_dir(&self.folder).unwrap().flatten();
        Ok(entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('k')).count() as i64)
    }
}
