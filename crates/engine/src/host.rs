//! What this machine and this user offer a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use cryonaut_image::Need;
use cryonaut_procfs::{Processor, Stat, system};

use crate::Result;
use crate::plan::Plan;
use crate::reference::{self, Mapped};
use crate::resource::memory::{AreaRecord, FileIdentity};

/// This machine's processor. What the kernel tells of it takes long to make where there are many: it is asked for once.
///
/// # Errors
/// When /proc/cpuinfo cannot be read.
pub fn processor() -> Result<&'static Processor> {
    static KNOWN: OnceLock<Processor> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known);
    }
    let found = system::processor()?;
    Ok(KNOWN.get_or_init(|| found))
}

/// How files that changed since the checkpoint are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Changed {
    /// The restart is refused.
    #[default]
    Refuse,
    /// They are used as they are.
    Allow,
}

/// How open files that only got longer since the checkpoint are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Grown {
    /// One that the job writes to is cut back to its old size, one that it only reads is taken as it is.
    #[default]
    AsUsed,
    /// Both are cut back.
    Truncate,
    /// Both are taken as they are.
    Keep,
    /// The restart is refused.
    Refuse,
}

/// What becomes of hard limits that the user may not set here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ClampLimits {
    /// The restart is refused.
    #[default]
    No,
    /// They are lowered to what the user may set.
    Yes,
}

/// What a restart gives in place of a pipe that led out of the job.
#[derive(Debug)]
pub enum Inherited {
    /// An open file.
    Descriptor(std::fs::File),
    /// A file by its path: it is read, or appended to and made if need be.
    Path(std::path::PathBuf),
    /// Nothing, for this reason: it could not be opened.
    Unusable(String),
}

/// The facts about this machine that plans are made against.
#[derive(Clone, Debug)]
pub struct Host {
    /// The vDSO's image here.
    pub vdso: Vec<u8>,
    /// What the kernel maps into every process here: the vDSO and its data, as they lie to each other, by address.
    pub kernel_areas: Vec<AreaRecord>,
    /// Processor features, as /proc/cpuinfo names them.
    pub features: BTreeSet<String>,
    /// Whether the pids of the image are to be free here (false in a fresh pid namespace, where all are).
    pub shares_pids: bool,
    /// The effective user.
    pub user: u32,
    /// How files that changed are taken.
    pub changed: Changed,
    /// How files that grew are taken.
    pub grown: Grown,
    /// What becomes of hard limits that the user may not set here.
    pub clamp_limits: ClampLimits,
    /// Processes of this machine, by their pids here, that will have ended when the job is restarted: their ids count as free.
    pub leaving: BTreeSet<i32>,
    /// What is given in place of external pipes, by their names; none where that is told only at the restart itself.
    pub inherited: Option<Arc<BTreeMap<String, Inherited>>>,
    /// Paths of files that the image itself provides where this machine has none or others.
    pub provided: BTreeSet<Vec<u8>>,
    /// Where the image comes from, for programs that ask: an absolute path, empty if it has none.
    pub source: Vec<u8>,
    /// The session that a process started here is in.
    pub session: i32,
    /// The processes of this machine, as they were when they were first asked for ([`Host::processes`]).
    pub seen: OnceLock<Vec<Stat>>,
}

impl Host {
    /// Looks at this machine. Files that grew are taken as they are used, hard limits are not clamped, and no process is about to
    /// leave: set [`Host::grown`], [`Host::clamp_limits`] and [`Host::leaving`] for that.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn look(shares_pids: bool, changed: Changed) -> Result<Self> {
        let own = cryonaut_procfs::ProcessDirectory::open(std::process::id() as i32)?;
        let mut vdso = Vec::new();
        let mut kernel_areas = Vec::new();
        for area in own.maps()? {
            kernel_areas.extend(AreaRecord::provided(&area));
            if matches!(area.name, cryonaut_procfs::AreaName::Vdso) {
                vdso = vec![0; area.length() as usize];
                cryonaut_tracee::read_exact(
                    own.pid(),
                    cryonaut_sys::RemotePtr::new(area.start),
                    &mut vdso,
                )?;
            }
        }
        let end = vdso
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        vdso.truncate(end);
        Ok(Self {
            vdso,
            kernel_areas,
            features: processor()?.flags.clone(),
            shares_pids,
            user: cryonaut_sys::task::effective_ids().0,
            changed,
            grown: Grown::AsUsed,
            clamp_limits: ClampLimits::No,
            leaving: BTreeSet::new(),
            inherited: Some(Arc::default()),
            provided: BTreeSet::new(),
            source: Vec::new(),
            session: own.stat()?.session,
            seen: OnceLock::new(),
        })
    }

    /// Whether what is at a path comes from the image.
    pub fn provides(&self, path: &[u8]) -> bool {
        self.provided.contains(path)
    }

    /// The processes of this machine; those that cannot be read are left out.
    pub fn processes(&self) -> &[Stat] {
        self.seen
            .get_or_init(|| system::all_stats().unwrap_or_default())
    }

    /// Refuses what the image says it needs and this machine lacks, or this `cryo` does not know.
    pub fn check_needs(&self, needs: &[Need], plan: &mut Plan) {
        for need in needs {
            match need.name.as_str() {
                // Used by the restart itself, and by records that say more.
                "clock.monotonic" | "clock.boottime" | "cpu.xsave-bytes" => {}
                "cpu.features" => {
                    let missing: Vec<&str> = need
                        .value
                        .split(' ')
                        .filter(|name| !name.is_empty() && !self.features.contains(*name))
                        .collect();
                    if !missing.is_empty() {
                        plan.refusals.add_for_job(
                            "processor features",
                            format!(
                                "this processor lacks {}, which the job may be using",
                                missing.join(", ")
                            ),
                            "restart on a machine with a processor of the same or a newer kind",
                        );
                    }
                }
                name => plan.refusals.add_for_job(
                    format!("the need {name}"),
                    "this cryo does not know it",
                    "restart with the version of cryo that made the image, or a newer one",
                ),
            }
        }
    }

    /// Refuses a file that is gone or not what it was, and may not have grown either.
    pub fn check_file(&self, file: &FileIdentity, process: i32, plan: &mut Plan) {
        reference::check(self, file, process, Mapped::Otherwise, plan);
    }
}
