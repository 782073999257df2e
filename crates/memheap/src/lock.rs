//! The lock of a shared heap.

#[cfg(not(loom))]
use spin::mutex::SpinMutex as Mutex;

#[cfg(loom)]
use loom::sync::Mutex;

/// Rounds of waiting, each twice as long as the one before, until a waiter
/// offers its core to others.
#[cfg(not(loom))]
const SPIN_ROUNDS: u32 = 6;

/// Held for tens of nanoseconds at a time, so that waiting costs less than
/// sleeping would.
#[derive(Debug)]
pub(crate) struct Lock<T>(Mutex<T>);

impl<T> Lock<T> {
    pub(crate) fn new(content: T) -> Self {
        Self(Mutex::new(content))
    }

    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> R {
        match self.0.try_lock() {
            Some(mut content) => action(&mut content),
            None => action(&mut self.wait()),
        }
    }

    #[cfg(not(loom))]
    #[cold]
    fn wait(&self) -> spin::mutex::SpinMutexGuard<'_, T> {
        let mut round = 0;
        loop {
            for _ in 0..1 << round {
                core::hint::spin_loop();
            }
            if round < SPIN_ROUNDS {
                round += 1;
            } else {
                // The holder may have lost its core.
                #[cfg(feature = "std")]
                std::thread::yield_now();
            }
            if !self.0.is_locked()
                && let Some(content) = self.0.try_lock()
            {
                return content;
            }
        }
    }

    #[cfg(loom)]
    pub(crate) fn with<R>(&self, action: impl FnOnce(&mut T) -> R) -> R {
        let mut content = match self.0.lock() {
            Ok(content) => content,
            Err(poisoned) => poisoned.into_inner(),
        };
        action(&mut content)
    }
}
