//! The user who logged in, as audit knows him (/proc/PID/loginuid), which [`super::super::credentials`] has recorded.

use std::fmt;

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn;
use cryonaut_tracee::CallList;

use crate::Result;
use crate::error::Attempt;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::credentials::CredentialsRecord;
use crate::resource::namespace::user_namespace_is_fresh;

/// Plans it for all processes: where audit lets the restart set it, before threads are born, which inherit it.
pub(super) fn plan(records: &[CredentialsRecord], host: &Host, plan: &mut Plan) -> Result<()> {
    const CAP_AUDIT_CONTROL: u32 = 30;
    let directory = ProcessDirectory::open(spawn::own_pid())?;
    if directory.read("loginuid").is_err() {
        // A kernel without audit.
        return Ok(());
    }
    // Nobody has logged in where the restart was started.
    let own = directory.loginuid()?;
    let capable = spawn::effective_capabilities()
        .is_ok_and(|capabilities| capabilities >> CAP_AUDIT_CONTROL & 1 == 1);
    let users = directory.uid_map()?;
    let may_name = |login: u32| {
        if user_namespace_is_fresh(host) {
            return login == host.user;
        }
        let mut ranges = users.iter();
        ranges.any(|range| login >= range.inside && login - range.inside < range.count)
    };
    let mut kept = None;
    for record in records {
        match record.login {
            Some(login) if own == Some(login) => {}
            Some(login) if (capable || own.is_none()) && may_name(login) => {
                let process = record.process;
                plan.step(Stage::Process, process, SetLogin { process, login });
            }
            Some(login) => kept = Some(login),
            None => {}
        }
    }
    if let Some(login) = kept {
        let own = own.map_or("no login user".to_owned(), |own| format!("user {own}"));
        plan.remarks.push(format!(
            "audit has {own} for the restarted job, not {login}: only root may say otherwise"
        ));
    }
    Ok(())
}

struct SetLogin {
    process: i32,
    login: u32,
}

impl fmt::Display for SetLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set the login user to {}", self.login as i32)
    }
}

impl Action for SetLogin {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut list = CallList::new();
        let text = self.login.to_string();
        let [file, written] = list.write_file(b"/proc/self/loginuid", text.as_bytes());
        let outcomes = rebuild.run(self.process, &list)?;
        let what = || format!("process {}: setting its login user (audit)", self.process);
        outcomes.result(file).attempt(what)?;
        match outcomes.result(written) {
            // Audit is told to leave it alone (its feature loginuid-immutable): as it has decided.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
            outcome => outcome.attempt(what).map(drop),
        }
    }
}
