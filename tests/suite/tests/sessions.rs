//! Login shells that are saved by their session: members that nobody waits for, and the names of their terminal.

use std::fs;
use std::time::Duration;

use cryonaut_suite::mount::{Mounted, leave_mount_namespace};
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::await_ready;
use cryonaut_suite::{Outcome, Program, Scene, Screen, failed, for_each_user, processes};

/// Notes each hangup, and ends well when told.
const MEMBER: &str = r#"
my $name = shift;
sub note { open my $notes, '>>', "notes" or die; syswrite $notes, "$name $_[0]\n" }
$SIG{HUP} = sub { note("is hung up") };
note("is there");
select(undef, undef, undef, 0.02) until -e "over";
note("is done");
"#;

/// A bash that leads a session, with no jobs yet.
fn shell(scene: &Scene) -> Outcome<Screen<'_>> {
    let bash = Program::installed("bash")?;
    let screen = Screen::start_program(scene, &bash.path, ["--norc", "-i"])?;
    screen.expect("$ ")?;
    Ok(screen)
}

/// Types a line into a shell, and waits for what it says.
fn ask(screen: &Screen<'_>, line: &str, answer: &str) -> Outcome {
    screen.clear();
    screen.type_keys(&format!("{line}\r"))?;
    screen.expect(answer)
}

/// Saves a shell with its session.
fn save(scene: &Scene, pid: i32, options: &[&str]) -> Outcome {
    let call = scene.cryo(["checkpoint", "--session", &pid.to_string(), "-o"]);
    let call = call.arguments([scene.file("image")]).arguments(options);
    call.run()?.success().map(drop)
}

/// Ends a shell by saving it, and restarts it on another terminal, where it has a prompt.
fn travel<'scene>(scene: &'scene Scene, old: Screen<'scene>) -> Outcome<Screen<'scene>> {
    save(scene, old.pid(), &["--kill"])?;
    old.vanish().wait()?;
    let image = scene.file("image");
    let screen = Screen::start(scene, ["restart".as_ref(), image.as_os_str()])?;
    scene.wait_for("the shell's prompt", LIMIT, || {
        let _ = screen.type_keys("\r");
        std::thread::sleep(Duration::from_millis(100));
        screen.shown().contains("$ ").then_some(())
    })?;
    Ok(screen)
}

/// Process groups of which no member has its parent in the session: one runs, of the others one has stopped. Neither a checkpoint
/// nor a restart hangs them up or lets them go on.
fn orphaned(scene: &Scene) -> Outcome {
    let perl = Program::installed("perl")?.path;
    let perl = perl.display();
    scene.write(&scene.work("member"), MEMBER)?;
    let notes = || fs::read_to_string(scene.work("notes")).unwrap_or_default();
    let await_notes = |what: &str, count: usize| {
        scene.wait_for(what, LIMIT, || {
            (notes().lines().count() == count).then_some(())
        })
    };
    let shell = shell(scene)?;
    ask(
        &shell,
        &format!(
            "({perl} member running & {perl} member stopped & echo $! > stopped); echo le''ft"
        ),
        "left",
    )?;
    ask(
        &shell,
        &format!("({perl} member alone & echo $! > alone); echo le''ft"),
        "left",
    )?;
    await_notes("the members", 3)?;
    for name in ["stopped", "alone"] {
        ask(
            &shell,
            &format!("kill -STOP $(<{name}); echo do''ne"),
            "done",
        )?;
        let pid: i32 = fs::read_to_string(scene.work(name))?
            .trim()
            .parse()
            .unwrap_or(0);
        scene.wait_for("the stop", LIMIT, || {
            (processes::state(pid) == Some('T')).then_some(())
        })?;
    }
    // One that runs on.
    save(scene, shell.pid(), &[])?;
    let screen = travel(scene, shell)?;
    for name in ["stopped", "alone"] {
        ask(
            &screen,
            &format!("echo state $(ps -o stat= -p $(<{name}) | cut -c 1)."),
            "state T.",
        )?;
    }
    ask(&screen, "touch over; echo do''ne", "done")?;
    await_notes("the one that runs", 4)?;
    if !notes().ends_with("running is done\n") {
        return failed(format!("they say {:?}", notes()));
    }
    ask(
        &screen,
        "kill -CONT $(<stopped) $(<alone); echo do''ne",
        "done",
    )?;
    await_notes("those that had been stopped", 6)?;
    if notes().contains("hung up") {
        return failed(format!("they say {:?}", notes()));
    }
    leave(screen)
}

/// Tells by which name each of three descriptors was opened, and whether ps(1) finds the session by the name of its terminal.
const NAMES: &str = r#"
use POSIX;
chomp(my $tty = `tty`);
my @names = map { ttyname($_) } 7, 8, 9;
my $own = $names[2] eq $tty && -c $tty ? "own" : "$names[2], not $tty";
my $short = $tty =~ s,^/dev/,,r;
my $ps = join "+", sort grep { /^(bash|cat|perl)$/ } split /\n/, `ps -t $short -o comm=`;
print "names: $names[0] $names[1] $own; $ps.\n";
"#;

/// The terminal under all its names: tty(1), ttyname(3), ps(1), and /dev/tty opened several times.
fn names(scene: &Scene) -> Outcome {
    let perl = Program::installed("perl")?.path;
    scene.write(&scene.work("names"), NAMES)?;
    let tell = format!("{} names", perl.display());
    let told = "names: /dev/tty /dev/tty own; bash+cat+perl.";
    let shell = shell(scene)?;
    ask(
        &shell,
        "exec 7<>/dev/tty 8</dev/tty 9<&0; cat & echo do''ne",
        "done",
    )?;
    ask(&shell, &tell, told)?;
    let screen = travel(scene, shell)?;
    ask(&screen, &tell, told)?;
    ask(&screen, "echo by na''me >&7", "by name")?;
    ask(
        &screen,
        "echo rea''dy; read line <&8; echo \"<$line>\"",
        "\rready\r",
    )?;
    screen.type_keys("typed\r")?;
    screen.expect("<typed>")?;
    ask(&screen, "kill -9 %1; wait; echo none le''ft", "none left")?;
    leave(screen)
}

/// Terminals of one number in /dev/pts and in a file system of terminals that is mounted elsewhere; and where that is not mounted
/// any more.
fn instances(scene: &Scene) -> Outcome {
    leave_mount_namespace()?;
    let place = scene.make_directory("terminals")?;
    let words = [
        "-t",
        "devpts",
        "-o",
        "newinstance,ptmxmode=0666,mode=0600",
        "none",
    ];
    let mounted = Mounted::new(&words, &place)?;
    let program = Program::victim("pty_instances", &[])?.argument(&place);
    let victim = scene.start("victim", &program)?;
    await_ready(scene, &victim)?;
    let image = scene.file("image");
    let save = |options: &[&str]| {
        let call = scene.cryo(["checkpoint", &victim.pid().to_string(), "-o"]);
        call.arguments([&image])
            .arguments(options)
            .run()?
            .success()
            .map(drop)
    };
    save(&[])?;
    save(&["--kill"])?;
    scene.wait(&victim)?;
    drop(mounted);
    let refused = scene.cryo(["restart"]).arguments([&image]).run()?;
    refused.refusal_with(&[125], &["no file system of terminals is mounted there"])?;
    let _mounted = Mounted::new(&words, &place)?;
    let job = scene.cryo(["restart"]).arguments([&image]).start("job")?;
    scene.go()?;
    let status = scene.wait(&job)?;
    match victim.output().ends_with("OK\n") && status.success() {
        true => Ok(()),
        false => failed(format!("{status}")),
    }
}

/// Leaves the shell with a status that `cryo` hands on.
fn leave(mut screen: Screen<'_>) -> Outcome {
    screen.type_keys("exit 7\r")?;
    screen.wait_for_status(7)
}

for_each_user! {orphaned, names, instances}
