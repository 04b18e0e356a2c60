import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.LongStream;

/**
 * Threads.java ROUNDS SIZE: four threads sort, hash and count words, the common pool sums, a timer ticks, and the
 * collector has garbage to collect. The same arguments give the same output.
 */
public class Threads {
    private static final int THREADS = 4;

    public static void main(String[] arguments) throws Exception {
        int rounds = Integer.parseInt(arguments[0]);
        int size = Integer.parseInt(arguments[1]);
        AtomicLong ticks = new AtomicLong();
        ScheduledExecutorService timer = Executors.newSingleThreadScheduledExecutor();
        timer.scheduleAtFixedRate(ticks::incrementAndGet, 1, 5, TimeUnit.MILLISECONDS);
        ExecutorService pool = Executors.newFixedThreadPool(THREADS);
        Map<String, Long> counts = new ConcurrentHashMap<>();
        MessageDigest all = MessageDigest.getInstance("SHA-256");
        System.out.println("READY");
        for (int round = 0; round < rounds; round++) {
            List<Future<byte[]>> parts = new ArrayList<>();
            for (int thread = 0; thread < THREADS; thread++) {
                long seed = round * THREADS + thread;
                parts.add(pool.submit(() -> work(seed, size, counts)));
            }
            for (Future<byte[]> part : parts) {
                all.update(part.get());
            }
            long start = round;
            long sum = LongStream.range(0, size).parallel().map(value -> value * value % (start + 7)).sum();
            all.update(Long.toString(sum).getBytes());
            Thread.sleep(2);
            if (round % 10 == 0) {
                System.out.println(round + " " + sum);
            }
        }
        pool.shutdown();
        timer.shutdown();
        if (!pool.awaitTermination(1, TimeUnit.MINUTES) || !timer.awaitTermination(1, TimeUnit.MINUTES)) {
            throw new IllegalStateException("the threads do not end");
        }
        System.out.println(ticks.get() > 0 ? "the timer ticked" : "the timer stood still");
        System.out.println(new TreeMap<>(counts));
        System.out.println("FINAL " + HexFormat.of().formatHex(all.digest()));
    }

    private static byte[] work(long seed, int size, Map<String, Long> counts) throws Exception {
        SplittableRandom random = new SplittableRandom(seed);
        String[] words = new String[size];
        for (int index = 0; index < size; index++) {
            words[index] = "word" + random.nextInt(20) + "-" + random.nextLong();
        }
        Arrays.sort(words);
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        for (String word : words) {
            digest.update(word.getBytes());
            counts.merge(word.substring(0, word.indexOf('-')), 1L, Long::sum);
        }
        return digest.digest();
    }
}
