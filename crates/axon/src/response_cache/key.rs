//! A question's hash: 128 bits of HighwayHash under a secret of this process.
//!
//! What is hashed is framed: every part that can be of any length comes behind its length, so that no two questions have
//! the same bytes. `docs/decisions/0013` says why it is this hash.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use highway::{HighwayHash as _, HighwayHasher};

/// What a question is kept under. Whoever does not know the secret cannot make two questions with the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u64; 2]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// The key of the hash.
pub(super) struct Secret(highway::Key);

impl Secret {
    /// Another one in each process.
    pub fn random() -> Self {
        // The state's own keys are random; four words are made of them by its keyed hash.
        let state = RandomState::new();
        Self(highway::Key([0_u64, 1, 2, 3].map(|word| state.hash_one(word))))
    }
}

/// Hashes one question, part by part.
pub struct KeyHasher(HighwayHasher);

impl KeyHasher {
    pub(super) fn new(secret: &Secret) -> Self {
        Self(HighwayHasher::new(secret.0))
    }

    /// The next part is a number.
    pub fn number(&mut self, number: u64) {
        self.0.append(&number.to_le_bytes());
    }

    /// The next part is so many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.append(bytes);
    }

    /// The key of what came.
    #[must_use]
    pub fn finish(self) -> Key {
        Key(self.0.finalize128())
    }
}

/// For tables of keys, which are hashes already.
#[derive(Clone, Copy, Default)]
pub(super) struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[derive(Clone, Copy, Default)]
pub(super) struct Keys;

impl BuildHasher for Keys {
    type Hasher = Unhashed;

    fn build_hasher(&self) -> Unhashed {
        Unhashed::default()
    }
}
