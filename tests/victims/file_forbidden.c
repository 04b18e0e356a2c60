/* An open file that may not be opened any more. */
#include "victim.h"

int main(void)
{
	char found[8] = "";
	int file = must(open("secret", O_RDWR | O_CREAT | O_TRUNC, 0600));
	expect_equal("bytes written", 6, write(file, "secret", 6));
	must(close(file));
	file = must(open("secret", O_RDONLY));
	must(fchmod(file, 0));
	victim_ready();
	victim_wait();
	expect_equal("bytes read", 6, read(file, found, sizeof found));
	expect_text("the file's content", "secret", found);
	victim_ok();
}
