% simulation.m ROUNDS SIZE: matrices, cells, closures, strings, and a file of results.
% The same arguments give the same output.
arguments = argv ();
rounds = str2double (arguments{end - 1});
count = str2double (arguments{end});
rand ('twister', 42);
field = rand (count);
step = @(state, factor) 0.5 * state + factor * real (ifft2 (fft2 (state) .* fft2 (state')));
history = {};
disp ('READY');
for round = 1:rounds
  field = step (field, 1 / numel (field));
  field += rand (count) / 10;
  field /= norm (field, 'fro');
  [factor, rest] = qr (field);
  history{end + 1} = struct ('round', round, 'trace', trace (rest), 'text', sprintf ('%.12g', sum (abs (factor(:)))));
  if mod (round, 20) == 0
    printf ('%d %.12g %s\n', round, history{end}.trace, history{end}.text);
    pause (0.002);
  endif
endfor
printf ('%.12g\n', sum (cellfun (@(one) one.trace, history)));
file = fopen ('field.bin', 'w');
fwrite (file, field, 'double');
fclose (file);
