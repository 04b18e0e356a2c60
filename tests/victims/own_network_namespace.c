/*
 * A network namespace that a job has made itself, whose only device is the loopback one, with changed settings; with an IPC and a
 * cgroup namespace, of which nothing is to be kept. The parent stays outside. By an ordinary user all within a user namespace.
 * Arguments: "up" has the loopback device up, "down" leaves it as it is, "address" gives it an address more, which is
 * refused.
 */
#include "victim.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/msg.h>
#include <sys/socket.h>

static void set(const char *name, const char *value)
{
	char path[128];
	snprintf(path, sizeof path, "/proc/sys/net/%s", name);
	int file = must(open(path, O_WRONLY | O_CLOEXEC));
	if (write(file, value, strlen(value)) != (ssize_t)strlen(value))
		broken("%s: %s", path, strerror(errno));
	close(file);
}

static void check(const char *name, const char *value)
{
	char path[128], text[128];
	snprintf(path, sizeof path, "/proc/sys/net/%s", name);
	read_text(path, text, sizeof text);
	text[strcspn(text, "\n")] = '\0';
	expect_text(name, value, text);
}

static short device_flags(short more)
{
	struct ifreq request = {.ifr_name = "lo"};
	int any = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	must(ioctl(any, SIOCGIFFLAGS, &request));
	if (more != 0) {
		request.ifr_flags |= more;
		must(ioctl(any, SIOCSIFFLAGS, &request));
	}
	close(any);
	return request.ifr_flags;
}

/* An address more for the loopback device. */
static void give_address(void)
{
	struct ifreq request = {.ifr_name = "lo:1"};
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a090807)};
	int any = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	memcpy(&request.ifr_addr, &address, sizeof address);
	must(ioctl(any, SIOCSIFADDR, &request));
	close(any);
}

static int devices(void)
{
	char text[4096];
	int lines = 0;
	read_text("/proc/self/net/dev", text, sizeof text);
	for (char *at = text; (at = strchr(at, '\n')) != NULL; at++)
		lines++;
	return lines - 2;
}

/* One byte over the loopback device. */
static void exchange(void)
{
	struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof name;
	int listener = expect_success(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	expect_success(bind(listener, (struct sockaddr *)&name, sizeof name));
	expect_success(listen(listener, 1));
	expect_success(getsockname(listener, (struct sockaddr *)&name, &length));
	int client = expect_success(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
	expect_success(connect(client, (struct sockaddr *)&name, sizeof name));
	int server = expect_success(accept(listener, NULL, NULL));
	char byte = 'x';
	expect_equal("bytes sent", 1, write(client, &byte, 1));
	expect_equal("bytes received", 1, read(server, &byte, 1));
	close(server);
	close(client);
	close(listener);
}

__attribute__((noreturn)) static void inner(struct arrivals *arrivals, bool up, bool more)
{
	if (geteuid() != 0)
		must(unshare(CLONE_NEWUSER));
	must(unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWCGROUP));
	set("ipv4/ip_forward", "1");
	set("ipv4/conf/lo/rp_filter", "2");
	set("ipv4/ip_local_port_range", "20000\t30000");
	if (up)
		device_flags(IFF_UP);
	if (more)
		give_address();
	int found = devices();
	arrive(arrivals);
	victim_wait();
	expect_equal("devices", found, devices());
	check("ipv4/ip_forward", "1");
	check("ipv4/conf/all/forwarding", "1");
	check("ipv4/conf/lo/rp_filter", "2");
	check("ipv4/ip_local_port_range", "20000\t30000");
	expect_equal("loopback is up", up, (device_flags(0) & IFF_UP) != 0);
	if (up)
		exchange();
	/* It may do there what it might. */
	expect_true(device_flags(IFF_UP) & IFF_UP);
	exchange();
	int queue = expect_success(msgget(0x6372796f, IPC_CREAT | IPC_EXCL | 0600));
	expect_success(msgctl(queue, IPC_RMID, NULL));
	char text[4096];
	read_text("/proc/self/cgroup", text, sizeof text);
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n"))
		expect_text("cgroup", ":/", strrchr(line, ':'));
	_exit(0);
}

int main(int count, char **arguments)
{
	struct arrivals arrivals = arrivals_open();
	const char *what = count < 2 ? "up" : arguments[1];
	bool more = strcmp(what, "address") == 0, up = more || strcmp(what, "up") == 0;
	char forwarding[16], now[16];
	pid_t tried = must(fork());
	if (tried == 0)
		_exit(unshare((geteuid() ? CLONE_NEWUSER : 0) | CLONE_NEWNET | CLONE_NEWCGROUP) == 0 ? 0 : 1);
	int status;
	must(waitpid(tried, &status, 0));
	if (status != 0)
		skip("this user may not make network namespaces here");
	read_text("/proc/sys/net/ipv4/ip_forward", forwarding, sizeof forwarding);
	pid_t child = must(fork());
	if (child == 0)
		inner(&arrivals, up, more);
	await_arrivals(&arrivals, 1);
	victim_ready();
	victim_wait();
	join_child(child);
	read_text("/proc/sys/net/ipv4/ip_forward", now, sizeof now);
	expect_text("forwarding outside", forwarding, now);
	victim_ok();
}
