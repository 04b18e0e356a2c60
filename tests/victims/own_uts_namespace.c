/*
 * A UTS namespace that the job shares with nobody else, made without a user namespace: by root. Two processes are in it, a third has
 * one of its own again.
 */
#include "victim.h"
#include <sys/utsname.h>

static void check_names(const char *host, const char *domain)
{
	struct utsname names;
	expect_success(uname(&names));
	expect_text("host name", host, names.nodename);
	expect_text("domain name", domain, names.domainname);
}

int main(void)
{
	struct arrivals arrivals = arrivals_open();
	struct utsname outside;
	must(uname(&outside));
	if (unshare(CLONE_NEWUTS) != 0)
		skip("this user may not make UTS namespaces: %s", strerror(errno));
	must(sethostname("first.example.org", 17));
	pid_t same = must(fork());
	if (same == 0) {
		arrive(&arrivals);
		victim_wait();
		check_names("first.example.org", outside.domainname);
		expect_success(sethostname("together", 8));
		_exit(0);
	}
	pid_t other = must(fork());
	if (other == 0) {
		must(unshare(CLONE_NEWUTS));
		must(sethostname("", 0));
		must(setdomainname("second", 6));
		arrive(&arrivals);
		victim_wait();
		check_names("", "second");
		_exit(0);
	}
	await_arrivals(&arrivals, 2);
	victim_ready();
	victim_wait();
	join_child(same);
	join_child(other);
	check_names("together", outside.domainname);
	victim_ok();
}
