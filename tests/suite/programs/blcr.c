/* A program written for BLCR, which does what its first argument says. What its callbacks see goes to standard output, a line each; it
 * says READY when all is prepared, and ends when VICTIM_GO is there. */
#define _GNU_SOURCE
#include <libcr.h>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

_Static_assert(sizeof(cr_checkpoint_args_t) == 28 && offsetof(cr_checkpoint_args_t, cr_flags) == 24, "cr_checkpoint_args_t");
_Static_assert(sizeof(cr_restart_args_t) == 24 && offsetof(cr_restart_args_t, cr_relocate) == 16, "cr_restart_args_t");
_Static_assert(sizeof(struct cr_checkpoint_info) == 32 && offsetof(struct cr_checkpoint_info, requester) == 16, "info");
_Static_assert(offsetof(struct cr_checkpoint_info, scope) == 24, "info");
_Static_assert(sizeof(struct cr_restart_info) == 16 && offsetof(struct cr_restart_info, src) == 8, "info");
_Static_assert(CR_RSTRT_RELOCATE_SIZE(2) == 40 && CR_ETEMPFAIL == 2354 && CR_ENOINIT == 2365, "numbers");
_Static_assert(sizeof(cr_checkpoint_handle_t) == 8 && sizeof(cr_bool_t) == 8 && sizeof(cr_spinlock_t) == 4, "scalars");

/* One write: callbacks of several threads and processes write into one file. */
static void say(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

#define expect(good) expect_at((good), #good, __LINE__)

static void expect_at(int good, const char *what, int line) {
    if (!good) {
        int error = errno;
        say("WRONG %s in line %d (errno %d, %s)\n", what, line, error, cr_strerror(error));
        _exit(1);
    }
}

static int fails_with(int error, long result) { return result == -1 && errno == error; }

static int exists(const char *path) { return path != NULL && access(path, F_OK) == 0; }

static void pause_a_little(void) {
    struct timespec moment = {0, 2000000};
    nanosleep(&moment, NULL);
}

static void wait_for_go(void) {
    while (!exists(getenv("VICTIM_GO")))
        pause_a_little();
}

static const char *word(int result) {
    static __thread char text[32];
    if (result > 0)
        return "restart";
    snprintf(text, sizeof text, result == 0 ? "continue" : "%d", result);
    return text;
}

static int tell(void *name) {
    say("%s checkpoint\n", (const char *)name);
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    say("%s %s\n", (const char *)name, word(result));
    return 0;
}

static cr_callback_id_t registered(const char *name, cr_callback_t callback, int context) {
    cr_callback_id_t id = cr_register_callback(callback, (void *)name, context);
    expect(id >= 0 && (id & context) == context);
    return id;
}

static int lives; /* how many times main() has seen that it was restarted */

static void *other_thread(void *prepared) {
    expect(cr_init() == 0 && cr_init() == 1);
    registered("other-first", tell, CR_SIGNAL_CONTEXT);
    registered("other-second", tell, CR_SIGNAL_CONTEXT);
    pthread_barrier_wait(prepared);
    wait_for_go();
    return NULL;
}

/* Two callbacks in thread context, one thread with one in signal context, and one with two. */
static void order(void) {
    pthread_barrier_t prepared;
    pthread_t other;
    pthread_barrier_init(&prepared, NULL, 2);
    registered("first", tell, CR_THREAD_CONTEXT);
    registered("second", tell, CR_THREAD_CONTEXT);
    registered("main", tell, CR_SIGNAL_CONTEXT);
    pthread_create(&other, NULL, other_thread, &prepared);
    pthread_barrier_wait(&prepared);
    say("READY\n");
    wait_for_go();
    pthread_join(other, NULL);
}

/* ---- What a callback answers -------------------------------------------------------------------------------------------------- */

static int answer;

static int answers(void *name) {
    say("%s checkpoint\n", (const char *)name);
    int result = cr_checkpoint(answer);
    say("%s %s\n", (const char *)name, word(result));
    expect(cr_checkpoint(0) == -CR_ENOTCB);
    return 0;
}

static void refuses(const char *how) {
    answer = strcmp(how, "later") == 0         ? CR_CHECKPOINT_TEMP_FAILURE
             : strcmp(how, "later-code") == 0  ? CR_CHECKPOINT_TEMP_FAILURE_CODE(77)
             : strcmp(how, "never") == 0       ? CR_CHECKPOINT_PERM_FAILURE
             : strcmp(how, "never-code") == 0  ? CR_CHECKPOINT_PERM_FAILURE_CODE(78)
                                               : CR_CHECKPOINT_OMIT;
    registered("not-told", tell, CR_THREAD_CONTEXT);
    registered("refuser", answers, CR_THREAD_CONTEXT);
    registered("before", tell, CR_THREAD_CONTEXT);
    say("READY\n");
    wait_for_go();
}

static int fails_before(void *unused) {
    (void)unused;
    return 1;
}

static int fails_after(void *unused) {
    (void)unused;
    cr_checkpoint(CR_CHECKPOINT_READY);
    return 1;
}

static int exits(void *unused) {
    (void)unused;
    _exit(0);
}

static int says_nothing(void *name) {
    say("%s called\n", (const char *)name);
    return 0;
}

/* ---- Bad calls ---------------------------------------------------------------------------------------------------------------- */

static void *stranger(void *unused) {
    (void)unused;
    /* This thread has not called cr_init. */
    expect(fails_with(CR_ENOINIT, cr_register_callback(tell, "x", CR_THREAD_CONTEXT)));
    expect(fails_with(CR_ENOINIT, cr_replace_callback(CR_THREAD_CONTEXT, tell, "x", CR_THREAD_CONTEXT)));
    expect(fails_with(CR_ENOINIT, cr_enter_cs(0)));
    expect(fails_with(CR_ENOINIT, cr_tryenter_cs(0)));
    expect(fails_with(CR_ENOINIT, cr_leave_cs(0)));
    expect(fails_with(CR_ENOINIT, cr_status()));
    expect(fails_with(CR_ENOINIT, cr_hold_ctrl(CR_HOLD_SCOPE_THREAD, CR_HOLD_READ)));
    expect(fails_with(CR_ENOINIT, cr_inc_persist()));
    expect(fails_with(CR_ENOINIT, cr_dec_persist()));
    expect(cr_register_hook(CR_HOOK_CONT_NO_CALLBACKS, NULL) == CR_HOOK_FN_ERROR && errno == CR_ENOINIT);
    return NULL;
}

static void hook(cr_hook_event_t event) { say("hook %d\n", (int)event); }

static void bad_requests(void) {
    cr_checkpoint_args_t args;
    cr_checkpoint_handle_t handle = 12345;
    struct timeval none = {0, 0};
    expect(fails_with(EINVAL, cri_init_checkpoint_args_t(99, &args)));
    expect(cr_initialize_checkpoint_args_t(&args) == 0);
    expect((int)args.cr_scope == -1 && args.cr_target == 0 && args.cr_fd == -1 && args.cr_signal == 0 && args.cr_flags == 0);
    expect(fails_with(EINVAL, cr_request_checkpoint(&args, &handle)));
    args.cr_scope = CR_SCOPE_PROC;
    expect(fails_with(EBADF, cr_request_checkpoint(&args, &handle)));
    args.cr_fd = open(".", O_RDONLY);
    expect(fails_with(EISDIR, cr_request_checkpoint(&args, &handle)));
    close(args.cr_fd);
    args.cr_fd = open("/dev/null", O_WRONLY);
    args.cr_signal = 65;
    expect(fails_with(EINVAL, cr_request_checkpoint(&args, &handle)));
    args.cr_signal = 0;
    args.cr_flags = 0x100;
    expect(fails_with(EINVAL, cr_request_checkpoint(&args, &handle)));
    args.cr_flags = CR_CHKPT_PTRACED_ALLOW | CR_CHKPT_PTRACED_SKIP;
    expect(fails_with(EINVAL, cr_request_checkpoint(&args, &handle)));
    args.cr_flags = CR_CHKPT_PROHIBIT_SELF;
    expect(fails_with(EDEADLK, cr_request_checkpoint(&args, &handle)));
    args.cr_scope = CR_SCOPE_TREE;
    args.cr_target = getpid();
    expect(fails_with(EDEADLK, cr_request_checkpoint(&args, &handle)));
    args.cr_flags = 0;
    args.cr_target = 0x3fffff0;
    expect(fails_with(ESRCH, cr_request_checkpoint(&args, &handle)));
    args.cr_version = 7;
    expect(fails_with(EINVAL, cr_request_checkpoint(&args, &handle)));
    expect(fails_with(EINVAL, cr_request_checkpoint(NULL, &handle)));
    close(args.cr_fd);
    int twice = open("twice", O_CREAT | O_WRONLY, 0600);
    expect(twice >= 0 && link("twice", "twice.again") == 0);
    expect(cr_initialize_checkpoint_args_t(&args) == 0);
    args.cr_scope = CR_SCOPE_PROC;
    args.cr_fd = twice;
    expect(fails_with(EMLINK, cr_request_checkpoint(&args, &handle)));
    close(twice);
    expect(fails_with(EINVAL, cr_wait_checkpoint(&handle, &none)));
    expect(fails_with(EINVAL, cr_log_checkpoint(&handle, 0, NULL)));
    expect(fails_with(EINVAL, cr_reap_checkpoint(&handle)));
    expect(fails_with(EINVAL, cr_reap_checkpoint(NULL)));
    expect(cr_poll_checkpoint(&handle, &none) == CR_POLL_CHKPT_ERR_PRE && errno == EINVAL);
    cr_restart_args_t restart;
    expect(fails_with(EINVAL, cri_init_restart_args_t(99, &restart)));
    expect(cr_initialize_restart_args_t(&restart) == 0 && restart.cr_flags == CR_RSTRT_RESTORE_PID && restart.cr_fd == -1);
    expect(fails_with(EBADF, cr_request_restart(&restart, &handle)));
    restart.cr_flags = 0x100;
    expect(fails_with(EINVAL, cr_request_restart(&restart, &handle)));
    expect(fails_with(EINVAL, cr_reap_restart(&handle)));
    expect(cr_poll_restart(&handle, &none) == CR_POLL_RSTRT_ERR_PRE && errno == EINVAL);
}

static void bad_calls(void) {
    stranger(NULL);
    expect(cr_init() == 0 && cr_init() == 1 && cr_init() == 2);
    pthread_t other;
    pthread_create(&other, NULL, stranger, NULL);
    pthread_join(other, NULL);
    expect(fails_with(EINVAL, cr_register_callback(tell, "x", 0)));
    expect(fails_with(EINVAL, cr_register_callback(tell, "x", CR_SIGNAL_CONTEXT | CR_THREAD_CONTEXT)));
    cr_callback_id_t id = cr_register_callback(tell, "x", CR_SIGNAL_CONTEXT);
    cr_callback_id_t next = cr_register_callback(NULL, NULL, CR_THREAD_CONTEXT);
    expect(id == CR_SIGNAL_CONTEXT && next == CR_THREAD_CONTEXT);
    expect(fails_with(EINVAL, cr_replace_callback(id, tell, "x", CR_THREAD_CONTEXT)));
    expect(fails_with(EINVAL, cr_replace_callback(id + 1, tell, "x", CR_SIGNAL_CONTEXT)));
    expect(fails_with(EINVAL, cr_replace_callback(-1, tell, "x", CR_SIGNAL_CONTEXT)));
    expect(fails_with(EINVAL, cr_replace_callback(7, tell, "x", CR_SIGNAL_CONTEXT)));
    expect(cr_replace_callback(id, NULL, NULL, CR_SIGNAL_CONTEXT) == 0);
    expect(fails_with(CR_ENOTCB, cr_replace_self(tell, "x", CR_THREAD_CONTEXT)));
    expect(fails_with(CR_ENOTCB, cr_forward_checkpoint(CR_SCOPE_PROC, getpid())));
    expect(cr_checkpoint(CR_CHECKPOINT_READY) == -CR_ENOTCB && cr_checkpoint(CR_CHECKPOINT_OMIT) == -CR_ENOTCB);
    expect(cr_get_checkpoint_info() == NULL && cr_get_restart_info() == NULL);
    errno = 7;
    expect(cr_status() == CR_STATE_IDLE && cr_enter_cs(5) == 0 && cr_tryenter_cs(-3) == 0 && cr_leave_cs(0) == 0);
    expect(cr_leave_cs(0) == 0 && errno == 7);
    expect(fails_with(EPERM, cr_leave_cs(0)));
    expect(fails_with(EINVAL, cr_hold_ctrl(3, CR_HOLD_READ)));
    expect(fails_with(EINVAL, cr_hold_ctrl(CR_HOLD_SCOPE_INIT, CR_HOLD_DFLT)));
    expect(fails_with(EINVAL, cr_hold_ctrl(CR_HOLD_SCOPE_THREAD, 5)));
    expect(cr_hold_ctrl(CR_HOLD_SCOPE_THREAD, CR_HOLD_CONT) == CR_HOLD_DFLT);
    expect(cr_hold_ctrl(CR_HOLD_SCOPE_THREAD, CR_HOLD_DFLT) == CR_HOLD_CONT);
    expect(cr_hold_ctrl(CR_HOLD_SCOPE_INIT, CR_HOLD_READ) == CR_HOLD_BOTH);
    expect(cr_hold_ctrl(CR_HOLD_SCOPE_UNINIT, CR_HOLD_NONE) == CR_HOLD_BOTH);
    expect(cr_inc_persist() == 0 && cr_inc_persist() == 1 && cr_dec_persist() == 2 && cr_dec_persist() == 1);
    expect(fails_with(ERANGE, cr_dec_persist()));
    expect(cr_register_hook(CR_NUM_HOOKS, hook) == CR_HOOK_FN_ERROR && errno == EINVAL);
    expect(cr_register_hook(CR_HOOK_CONT_NO_CALLBACKS, hook) == NULL);
    expect(cr_register_hook(CR_HOOK_CONT_NO_CALLBACKS, NULL) == hook);
    cr_spinlock_t lock = CR_SPINLOCK_INITIALIZER;
    expect(cr_spinlock_trylock(&lock) != 0 && cr_spinlock_trylock(&lock) == 0);
    cr_spinlock_unlock(&lock);
    cr_spinlock_lock(&lock);
    expect(cr_spinlock_trylock(&lock) == 0);
    cr_spinlock_init(&lock);
    expect(cr_spinlock_trylock(&lock) != 0);
    expect(strcmp(cr_strerror(ENOENT), strerror(ENOENT)) == 0);
    for (int error = CR_MIN_ERRCODE + 1; error < CR_MAX_ERRCODE; error++)
        expect(strstr(cr_strerror(error), "nknown") == NULL);
    expect(cri_signum == CR_SIGNUM && raise(CR_SIGNUM) == 0);
    bad_requests();
    /* A child has called nothing. */
    pid_t child = fork();
    if (child == 0) {
        stranger(NULL);
        expect(cr_init() == 0);
        expect(cr_register_callback(tell, "x", CR_SIGNAL_CONTEXT) == CR_SIGNAL_CONTEXT);
        _exit(0);
    }
    int status;
    expect(waitpid(child, &status, 0) == child && status == 0);
}

/* ---- From within callbacks ---------------------------------------------------------------------------------------------------- */

static int replaced(void *name) {
    say("%s replaced\n", (const char *)name);
    return 0;
}

static int curious(void *context) {
    int own = (int)(long)context, other = CR_SIGNAL_CONTEXT + CR_THREAD_CONTEXT - own;
    cr_checkpoint_args_t args;
    cr_checkpoint_handle_t handle;
    expect(cr_status() == CR_STATE_ACTIVE);
    expect(fails_with(EBUSY, cr_register_callback(tell, "x", own)));
    expect(fails_with(EBUSY, cr_replace_callback(own, tell, "x", own)));
    expect(fails_with(EINVAL, cr_replace_self(replaced, "x", other)));
    expect(cr_enter_cs(CR_ID_CALLBACK) == 0 && cr_tryenter_cs(CR_ID_CALLBACK) == 0 && cr_leave_cs(CR_ID_CALLBACK) == 0);
    expect(cr_leave_cs(CR_ID_CALLBACK) == 0);
    cr_initialize_checkpoint_args_t(&args);
    args.cr_scope = CR_SCOPE_TREE;
    args.cr_fd = CR_DEST_CWD;
    expect(fails_with(EBUSY, cr_request_checkpoint(&args, &handle)));
    const struct cr_checkpoint_info *info = cr_get_checkpoint_info();
    expect(info != NULL && info->requester > 0 && info->dest[0] == '/' && (info->signal == 0 || info->signal == SIGKILL));
    expect(info->target == getpid());
    expect(info->scope == CR_SCOPE_TREE && cr_get_restart_info() == NULL);
    expect(fails_with(ESRCH, cr_forward_checkpoint(CR_SCOPE_PROC, 0x3fffff0)));
    expect(fails_with(EINVAL, cr_forward_checkpoint((cr_scope_t)9, getpid())));
    expect(cr_forward_checkpoint(CR_SCOPE_PROC, 0) == 0);
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    expect(fails_with(CR_ENOTCB, cr_forward_checkpoint(CR_SCOPE_PROC, 0)));
    expect(cr_checkpoint(CR_CHECKPOINT_READY) == -CR_ENOTCB);
    expect(cr_get_checkpoint_info() == NULL && cr_status() == CR_STATE_ACTIVE);
    const struct cr_restart_info *restart = cr_get_restart_info();
    expect((restart != NULL) == (result > 0));
    if (restart)
        expect(restart->requester == result && restart->src[0] == '/' && strstr(restart->src, "image") != NULL);
    expect(cr_replace_self(replaced, (void *)(own == CR_SIGNAL_CONTEXT ? "signal" : "thread"), own) == 0);
    say("%s %s\n", own == CR_SIGNAL_CONTEXT ? "signal" : "thread", word(result));
    return 0;
}

static void curiosity(void) {
    expect(cr_register_callback(curious, (void *)(long)CR_THREAD_CONTEXT, CR_THREAD_CONTEXT) == CR_THREAD_CONTEXT);
    expect(cr_register_callback(curious, (void *)(long)CR_SIGNAL_CONTEXT, CR_SIGNAL_CONTEXT) == CR_SIGNAL_CONTEXT);
    say("READY\n");
    wait_for_go();
}

/* ---- Many --------------------------------------------------------------------------------------------------------------------- */

#define MANY 5000
static int entered, left;

static int counts(void *number) {
    expect((long)number == MANY - 1 - entered++);
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    expect(result >= 0 && (long)number == left++);
    return 0;
}

static void many(void) {
    for (long number = 0; number < MANY; number++)
        expect(cr_register_callback(counts, (void *)number, CR_THREAD_CONTEXT) == (int)(number | CR_THREAD_CONTEXT));
    say("READY\n");
    wait_for_go();
    expect(entered == MANY && left == MANY);
}

/* ---- Critical sections -------------------------------------------------------------------------------------------------------- */

static volatile int inside;

static int outside(void *unused) {
    (void)unused;
    expect(inside == 0);
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    expect(inside == 0);
    say("section %s\n", word(result));
    return 0;
}

static void sections(void) {
    int id = cr_init();
    registered("x", outside, CR_THREAD_CONTEXT);
    registered("x", outside, CR_SIGNAL_CONTEXT);
    expect(cr_enter_cs(id) == 0 && cr_enter_cs(id) == 0);
    inside = 1;
    say("READY\n");
    while (cr_status() != CR_STATE_PENDING)
        pause_a_little();
    say("PENDING\n");
    expect(cr_leave_cs(id) == 0 && cr_status() == CR_STATE_PENDING);
    inside = 0;
    expect(cr_leave_cs(id) == 0);
    say("LEFT %d\n", cr_status());
    wait_for_go();
}

static int slow(void *unused) {
    (void)unused;
    say("in callback\n");
    while (!exists("release"))
        pause_a_little();
    say("slow %s\n", word(cr_checkpoint(CR_CHECKPOINT_READY)));
    return 0;
}

/* ---- Holding and hooks -------------------------------------------------------------------------------------------------------- */

static volatile int counting = 1;
static volatile unsigned long steps;

static void *works(void *unused) {
    (void)unused;
    while (counting)
        steps++;
    return NULL;
}

static int holds(void *unused) {
    (void)unused;
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    unsigned long before = steps;
    struct timespec moment = {0, 100000000};
    nanosleep(&moment, NULL);
    say("steps %s\n", steps == before ? "held" : "went on");
    say("holds %s\n", word(result));
    return 0;
}

static void holding(int hold) {
    pthread_t other;
    expect(cr_hold_ctrl(CR_HOLD_SCOPE_UNINIT, hold) == CR_HOLD_BOTH);
    for (int event = 0; event < CR_NUM_HOOKS; event++)
        expect(cr_register_hook((cr_hook_event_t)event, hook) == NULL);
    registered("x", holds, CR_THREAD_CONTEXT);
    pthread_create(&other, NULL, works, NULL);
    say("READY\n");
    wait_for_go();
    counting = 0;
    pthread_join(other, NULL);
}

/* ---- Sockets ------------------------------------------------------------------------------------------------------------------ */

static int listening;

static void listens(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listening = socket(AF_INET, SOCK_STREAM, 0);
    expect(listening >= 0 && bind(listening, (struct sockaddr *)&address, sizeof address) == 0 && listen(listening, 1) == 0);
}

static int opens_again(void *unused) {
    (void)unused;
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    struct stat status;
    say("socket %s after %s\n", fstat(listening, &status) == 0 ? "open" : "closed", word(result));
    return 0;
}

static void sockets(const char *how) {
    listens();
    if (strcmp(how, "callback") == 0)
        registered("x", opens_again, CR_THREAD_CONTEXT);
    say("READY\n");
    wait_for_go();
    struct stat status;
    say("socket %s\n", fstat(listening, &status) == 0 ? "open" : "closed");
}

/* ---- Requests ----------------------------------------------------------------------------------------------------------------- */

static cr_checkpoint_handle_t asked(int fd, int scope, unsigned flags) {
    cr_checkpoint_args_t args;
    cr_checkpoint_handle_t handle;
    expect(cr_initialize_checkpoint_args_t(&args) == 0);
    args.cr_scope = (cr_scope_t)scope;
    args.cr_fd = fd;
    args.cr_flags = flags;
    expect(cr_request_checkpoint(&args, &handle) == 0);
    return handle;
}

static int polled(cr_checkpoint_handle_t *handle) {
    int result;
    do
        result = cr_poll_checkpoint(handle, NULL);
    while (result == CR_POLL_CHKPT_ERR_PRE && errno == EINTR);
    return result;
}

static int own_request(void *unused) {
    (void)unused;
    const struct cr_checkpoint_info *info = cr_get_checkpoint_info();
    expect(info->requester == getpid() && info->target == getpid() && info->scope == CR_SCOPE_PROC);
    say("asked\n");
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    say("own %s\n", word(result));
    return 0;
}

/* Has itself saved: outside of a critical section it is done when the call is back. */
static void itself(const char *image) {
    registered("x", own_request, CR_THREAD_CONTEXT);
    int fd = open(image, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    expect(fd >= 0);
    cr_checkpoint_handle_t handle = asked(fd, CR_SCOPE_PROC, 0);
    expect(cr_status() == CR_STATE_IDLE);
    fd_set set;
    FD_ZERO(&set);
    FD_SET((int)handle, &set);
    while (select((int)handle + 1, &set, NULL, NULL, NULL) < 0)
        expect(errno == EINTR);
    int result = polled(&handle);
    if (result == CR_POLL_CHKPT_ERR_POST && errno == CR_ERESTARTED) {
        lives++;
        struct stat status;
        expect(fstat(fd, &status) < 0);
    } else
        expect(result == 1);
    expect(fails_with(EINVAL, cr_reap_checkpoint(&handle)));
    say("life %d\n", lives);
    say("READY\n");
    wait_for_go();
}

/* The same in a critical section, after whose end it is done; and the older functions. */
static void itself_later(void) {
    registered("x", own_request, CR_THREAD_CONTEXT);
    int fd = open("in-section", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int id = cr_init();
    expect(cr_enter_cs(id) == 0);
    cr_checkpoint_handle_t handle = asked(fd, CR_SCOPE_PROC, CR_CHKPT_ASYNC_ERR);
    expect(cr_status() == CR_STATE_PENDING);
    struct timeval moment = {0, 10000};
    expect(fails_with(EAGAIN, cr_reap_checkpoint(&handle)));
    expect(cr_wait_checkpoint(&handle, &moment) == 0 && moment.tv_sec == 0 && moment.tv_usec == 0);
    expect(cr_poll_checkpoint(&handle, &moment) == 0);
    say("section\n");
    expect(cr_leave_cs(id) == 0);
    int result;
    while ((result = cr_wait_checkpoint(&handle, NULL)) < 0)
        expect(errno == EINTR);
    expect(result > 0 && cr_log_checkpoint(&handle, 0, NULL) >= 0 && cr_reap_checkpoint(&handle) == 0);
    close(fd);
    cr_request_file("by-name");
    char name[64];
    snprintf(name, sizeof name, "context.%d", (int)getpid());
    cr_request();
    fd = open("by-number", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_request_fd(fd);
    close(fd);
    for (const char *const *file = (const char *const[]){"in-section", "by-name", name, "by-number", NULL}; *file; file++) {
        struct stat status;
        status.st_size = 0;
        /* They are made, and written still. */
        while (stat(*file, &status) != 0 || status.st_size == 0)
            pause_a_little();
    }
    fd = open("/dev/null", O_WRONLY);
    handle = asked(fd, CR_SCOPE_PROC, 0);
    expect(polled(&handle) == 1);
    close(fd);
}

static void itself_refused(void) {
    answer = CR_CHECKPOINT_TEMP_FAILURE_CODE(79);
    registered("refuser", answers, CR_THREAD_CONTEXT);
    cr_checkpoint_handle_t handle = asked(open("/dev/null", O_WRONLY), CR_SCOPE_PROC, 0);
    char *message = NULL;
    int result;
    do
        result = cr_poll_checkpoint_msg(&handle, NULL, &message);
    while (result == CR_POLL_CHKPT_ERR_PRE && errno == EINTR);
    expect(result == CR_POLL_CHKPT_ERR_POST && errno == 79);
    expect(message != NULL && strstr(message, "thread callback 0") != NULL);
    free(message);
    answer = CR_CHECKPOINT_OMIT;
    handle = asked(open("/dev/null", O_WRONLY), CR_SCOPE_PROC, 0);
    expect(polled(&handle) == CR_POLL_CHKPT_ERR_POST && errno == ESRCH);
}

/* Restarts an image by the library, and ends as the restarted process does. */
static void restarts(const char *image) {
    cr_restart_args_t args;
    cr_restart_handle_t handle;
    expect(cr_initialize_restart_args_t(&args) == 0);
    args.cr_fd = open(image, O_RDONLY);
    expect(cr_request_restart(&args, &handle) == 0);
    close(args.cr_fd);
    pid_t pid = cr_poll_restart(&handle, NULL);
    expect(pid > 0);
    say("RESTARTED\n");
    int status;
    expect(waitpid(pid, &status, __WALL) == pid);
    exit(WIFEXITED(status) ? WEXITSTATUS(status) : 100);
}

static void restarts_nothing(void) {
    cr_restart_args_t args;
    cr_restart_handle_t handle;
    expect(cr_initialize_restart_args_t(&args) == 0);
    args.cr_fd = open("/dev/null", O_RDONLY);
    expect(cr_request_restart(&args, &handle) == 0);
    expect(cr_poll_restart(&handle, NULL) == CR_POLL_RSTRT_ERR_POST && errno == EINVAL);
}

/* ---- Other processes ---------------------------------------------------------------------------------------------------------- */

static pid_t other;

static int forwards(void *unused) {
    (void)unused;
    expect(cr_forward_checkpoint(CR_SCOPE_PROC, other) == 0);
    say("forwarded\n");
    int result = cr_checkpoint(CR_CHECKPOINT_READY);
    say("parent %s\n", word(result));
    return 0;
}

/* A process alone is asked for; it has its child saved too. */
static void forwarding(void) {
    int ready[2];
    expect(pipe(ready) == 0);
    other = fork();
    if (other == 0) {
        expect(cr_init() == 0);
        registered("child", tell, CR_THREAD_CONTEXT);
        expect(write(ready[1], "x", 1) == 1);
        close(ready[0]);
        close(ready[1]);
        wait_for_go();
        _exit(7);
    }
    char byte;
    expect(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    close(ready[1]);
    registered("x", forwards, CR_THREAD_CONTEXT);
    say("READY\n");
    wait_for_go();
    int status;
    expect(waitpid(other, &status, 0) == other && WEXITSTATUS(status) == 7);
}

/* A fork between registration and checkpoint: the child knows of nothing. */
static void forks(void) {
    registered("parent", tell, CR_THREAD_CONTEXT);
    registered("parent", tell, CR_SIGNAL_CONTEXT);
    pid_t child = fork();
    if (child == 0) {
        expect(fails_with(CR_ENOINIT, cr_status()));
        wait_for_go();
        _exit(0);
    }
    say("READY\n");
    wait_for_go();
    int status;
    expect(waitpid(child, &status, 0) == child && status == 0);
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    if (strcmp(what, "bad-calls") == 0) {
        bad_calls();
        say("END\n");
        return 0;
    }
    if (strcmp(what, "restarts") == 0 && count > 2)
        restarts(arguments[2]);
    if (strcmp(what, "restarts-nothing") == 0) {
        restarts_nothing();
        say("END\n");
        return 0;
    }
    expect(cr_init() == 0);
    if (strcmp(what, "order") == 0)
        order();
    else if (strncmp(what, "refuse-", 7) == 0)
        refuses(what + 7);
    else if (strcmp(what, "fails-before") == 0 || strcmp(what, "fails-after") == 0 || strcmp(what, "exits") == 0 ||
             strcmp(what, "nothing") == 0) {
        registered("first", tell, CR_THREAD_CONTEXT);
        registered("x", what[0] == 'e' ? exits : what[0] == 'n' ? says_nothing : what[6] == 'b' ? fails_before : fails_after,
                   CR_THREAD_CONTEXT);
        say("READY\n");
        wait_for_go();
    } else if (strcmp(what, "curious") == 0)
        curiosity();
    else if (strcmp(what, "many") == 0)
        many();
    else if (strcmp(what, "sections") == 0)
        sections();
    else if (strcmp(what, "slow") == 0) {
        registered("x", slow, CR_THREAD_CONTEXT);
        say("READY\n");
        wait_for_go();
    } else if (strncmp(what, "hold-", 5) == 0)
        holding(what[5] == 'n' ? CR_HOLD_NONE : CR_HOLD_BOTH);
    else if (strncmp(what, "socket-", 7) == 0)
        sockets(what + 7);
    else if (strcmp(what, "itself") == 0 && count > 2)
        itself(arguments[2]);
    else if (strcmp(what, "itself-later") == 0)
        itself_later();
    else if (strcmp(what, "itself-refused") == 0)
        itself_refused();
    else if (strcmp(what, "forward") == 0)
        forwarding();
    else if (strcmp(what, "fork") == 0)
        forks();
    else if (strcmp(what, "exit-code") == 0) {
        say("READY\n");
        wait_for_go();
        return 23;
    } else if (strcmp(what, "by-signal") == 0) {
        say("READY\n");
        wait_for_go();
        raise(SIGTERM);
    } else
        return 2;
    say("END\n");
    return 0;
}
