//! Names of jobs that are about to be started: they are told to the job before it can be entered in the list.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ProcessIdentity, Registry, RegistryError, View, check_name, current_boot};

/// How long one made in other namespaces counts.
const ELSEWHERE: Duration = Duration::from_secs(60);

/// A name that nobody else gives to a job, until this is dropped or its process ends.
#[derive(Debug)]
pub struct Reservation {
    registry: Registry,
    name: String,
}

/// What is written down about one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reserved {
    /// For whom.
    by: ProcessIdentity,
    /// The boot that it lives in.
    boot: String,
    /// What its pid is of.
    view: Option<View>,
}

impl Reserved {
    /// For the calling process.
    fn own() -> Option<Reserved> {
        Some(Reserved {
            by: ProcessIdentity::of(std::process::id() as i32).ok()?,
            boot: current_boot(),
            view: View::own(),
        })
    }
}

impl Reserved {
    /// Whether the process that it is for may still start its job.
    fn holds(&self, path: &Path) -> bool {
        match self.view == View::own() {
            true => self.by.is_alive(),
            // Only a cryo there can tell; what it does takes no time, usually.
            false => fs::metadata(path)
                .and_then(|facts| facts.modified())
                .is_ok_and(|then| then.elapsed().is_ok_and(|age| age < ELSEWHERE)),
        }
    }
}

impl Reservation {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // Where it stays it has no meaning any more once this process has ended.
        let _ = fs::remove_file(self.registry.reservation_of(&self.name));
    }
}

impl Registry {
    /// Reserves a name for a job that the calling process is about to start: this one, or one made from the command.
    ///
    /// # Errors
    /// [`RegistryError::BadName`], [`RegistryError::NameTaken`] and [`RegistryError::Elsewhere`] about a name that was given, and
    /// when the list cannot be changed.
    pub fn reserve(
        &self,
        name: Option<&str>,
        command: &[String],
    ) -> Result<Reservation, RegistryError> {
        if let Some(name) = name {
            check_name(name)?;
        }
        let _lock = self.lock()?;
        let name = match name {
            Some(name) => self.free(name).map(|()| name.to_owned())?,
            None => self.generate_name(command)?,
        };
        let path = self.reservation_of(&name);
        let text = serde_json::to_vec(&Reserved::own()).unwrap_or_default();
        fs::write(&path, text).map_err(|source| RegistryError::File {
            what: "write",
            path,
            source,
        })?;
        Ok(Reservation {
            registry: self.clone(),
            name,
        })
    }

    fn reservation_of(&self, name: &str) -> PathBuf {
        self.directory.join(format!(".{name}.reserved"))
    }

    /// Whether somebody else is about to give this name to a job. A reservation whose process has ended is removed.
    pub(super) fn is_reserved(&self, name: &str) -> bool {
        let path = self.reservation_of(name);
        let Ok(text) = fs::read(&path) else {
            return false;
        };
        let own = Reserved::own();
        match serde_json::from_slice::<Reserved>(&text).ok() {
            reserved if reserved == own => false,
            Some(reserved) if reserved.boot == current_boot() && reserved.holds(&path) => true,
            _ => {
                let _ = fs::remove_file(&path);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_name_is_given_to_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::open_at(&directory.path().join("jobs")).unwrap();
        let command = ["/bin/sleep".to_owned()];
        let first = registry.reserve(None, &command).unwrap();
        assert_eq!(first.name(), "sleep-1");
        // It is our own.
        registry.check_free("sleep-1").unwrap();
        let other = Reserved {
            by: ProcessIdentity::of(1).unwrap(),
            ..Reserved::own().unwrap()
        };
        let write = |reserved: &Reserved| {
            let text = serde_json::to_vec(reserved).unwrap();
            fs::write(registry.reservation_of("sleep-2"), text).unwrap();
        };
        write(&other);
        assert!(matches!(
            registry.check_free("sleep-2"),
            Err(RegistryError::NameTaken(_))
        ));
        assert!(matches!(
            registry.reserve(Some("sleep-2"), &command),
            Err(RegistryError::NameTaken(_))
        ));
        // One whose process has ended.
        write(&Reserved {
            by: ProcessIdentity {
                start_time: 1 << 60,
                ..other.by
            },
            ..other
        });
        registry.check_free("sleep-2").unwrap();
        assert!(!registry.reservation_of("sleep-2").exists());
        drop(first);
        assert!(!registry.reservation_of("sleep-1").exists());
    }
}
