//! What many worlds have in common.

use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

/// A value that copies of a world share until one of them changes it. It is hashed once.
#[derive(Clone, Debug)]
pub(in super::super) struct Shared<T>(Arc<Inner<T>>);

#[derive(Clone, Debug)]
struct Inner<T> {
    value: T,
    hash: OnceLock<u64>,
}

impl<T> Shared<T> {
    pub(super) fn new(value: T) -> Self {
        let hash = OnceLock::new();
        Self(Arc::new(Inner { value, hash }))
    }
}

impl<T: Hash> Shared<T> {
    fn fingerprint(&self) -> u64 {
        *self.0.hash.get_or_init(|| fingerprint(&self.0.value))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        let inner = Arc::make_mut(&mut self.0);
        inner.hash = OnceLock::new();
        &mut inner.value
    }
}

impl<T: Hash> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint() == other.fingerprint()
    }
}

impl<T: Hash> Eq for Shared<T> {}

impl<T: Hash> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.fingerprint());
    }
}

/// Names a value. Two of a million have the same name once in ten million times.
pub(in super::super) fn fingerprint(value: &impl Hash) -> u64 {
    let mut mixer = Mixer(0);
    value.hash(&mut mixer);
    mixer.finish()
}

/// Mixes words, which is what worlds are made of, quickly even without optimisation.
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut whole = [0; 8];
            whole[..word.len()].copy_from_slice(word);
            self.write_u64(u64::from_le_bytes(whole));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = u128::from(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd129_0d3d_9d6c_6d65;
        self.0 = (mixed as u64).rotate_left(29) ^ (mixed >> 64) as u64;
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
