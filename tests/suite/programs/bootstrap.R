# Rscript bootstrap.R ROUNDS: a seeded bootstrap of a linear regression; prints an exact digest of its state.
arguments <- commandArgs(TRUE)
rounds <- if (length(arguments)) as.integer(arguments[1]) else 400L
set.seed(20240601)
n <- 1000L
p <- 20L
x <- matrix(rnorm(n * p), n)
y <- x %*% rnorm(p) + rnorm(n)
sums <- numeric(p)
cat("READY\n")
for (k in seq_len(rounds)) {
  drawn <- sample.int(n, n, TRUE)
  sums <- sums + coef(lm.fit(x[drawn, ], y[drawn]))
  if (k %% 100 == 0) {
    cat(k, sprintf("%.17g", sums[1]), "\n")
    flush(stdout())
  }
}
file <- "state.bin"
writeBin(c(sums, runif(1)), file)
cat("FINAL", unname(tools::md5sum(file)), "\n")
