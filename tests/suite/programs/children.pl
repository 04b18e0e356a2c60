# children.pl ROUNDS: three children work through lines of text with hashes and expressions and answer through pipes,
# while an interval timer interrupts everybody; short-lived children in between. The same rounds give the same output.
use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use IO::Handle;
use Time::HiRes qw(setitimer ITIMER_REAL);

my ($rounds) = @ARGV;
my $ticks = 0;
$SIG{ALRM} = sub { $ticks++ };
STDOUT->autoflush(1);

sub answer {
    my ($number, $from, $to) = @_;
    my %seen;
    my $digest = '';
    while (defined(my $line = <$from>)) {
        chomp $line;
        my $state = $line * 7 + $number;
        for (1 .. 400) {
            $state = ($state * 1103515245 + 12345) % 2147483648;
            (my $word = "w$state") =~ s/(\d)(\d)/$2$1/g;
            $seen{$1}++ if $word =~ /(\d\d)$/;
            $digest = md5_hex($digest . $word);
        }
        print {$to} join(' ', $number, $line, scalar(keys %seen), $digest), "\n";
    }
    print {$to} join(',', map { "$_=$seen{$_}" } sort keys %seen), "\n";
    setitimer(ITIMER_REAL, 0);
    die "no alarm came\n" unless $ticks;
    exit 0;
}

my @children;
for my $number (1 .. 3) {
    pipe(my $from_parent, my $to_child) or die;
    pipe(my $from_child, my $to_parent) or die;
    $_->autoflush(1) for $to_child, $to_parent;
    defined(my $pid = fork) or die;
    if (!$pid) {
        close $_ for $to_child, $from_child, map { @{$_}{qw(to from)} } @children;
        setitimer(ITIMER_REAL, 0.02, 0.02);
        answer($number, $from_parent, $to_parent);
    }
    close $from_parent;
    close $to_parent;
    push @children, { pid => $pid, to => $to_child, from => $from_child };
}
setitimer(ITIMER_REAL, 0.02, 0.02);
print "READY\n";
my $digest = '';
for my $round (1 .. $rounds) {
    print { $_->{to} } "$round\n" for @children;
    $digest = md5_hex($digest . readline($_->{from})) for @children;
    if ($round % 50 == 0) {
        my $short = `echo $digest | tr a-f A-F`;
        die "the short-lived child ended with $?\n" if $?;
        print "$round $short";
    }
}
# From here on an alarm could come where it is fatal: in waitpid, and when the handlers are gone.
setitimer(ITIMER_REAL, 0);
for my $child (@children) {
    close $child->{to};
    print readline($child->{from});
    waitpid($child->{pid}, 0) == $child->{pid} or die;
    die "a child ended with $?\n" if $?;
}
die "no alarm came\n" unless $ticks;
print "FINAL $digest\n";
