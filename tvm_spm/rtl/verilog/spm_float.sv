// Numbers of 32 bits as IEEE 754 has them, rounded to the nearest, halves to even: for the vector unit.
package spm_float;
  /* verilator lint_off UNUSEDSIGNAL */   // each looks at its part of a number
  localparam logic [31:0] NAN = 32'h7fc00000;

  function automatic logic [0:0] is_nan(input logic [31:0] a);
    is_nan = &a[30:23] && |a[22:0];
  endfunction

  function automatic logic [0:0] is_infinite(input logic [31:0] a);
    is_infinite = &a[30:23] && ~|a[22:0];
  endfunction

  // a number is its mantissa times 2 to the power of its scale
  function automatic logic [23:0] mantissa(input logic [31:0] a);
    mantissa = {|a[30:23], a[22:0]};
  endfunction

  function automatic logic signed [15:0] scale(input logic [31:0] a);
    scale = $signed({8'd0, a[30:23] == 8'd0 ? 8'd1 : a[30:23]}) - 16'sd150;
  endfunction

  // value / 2 ^ places; mode 0: nearest, halves to even, 1: towards 0, 2: up, 3: nearest, halves up
  function automatic logic [63:0] shortened(input logic [63:0] value, input logic [15:0] places, input logic [1:0] mode);
    logic [63:0] left, whole;
    logic half, more;
    if (places == 16'd0) shortened = value;
    else begin
      whole = places > 16'd63 ? 64'd0 : value >> places[5:0];
      left = places > 16'd64 ? 64'd0 : value << (7'd64 - places[6:0]);
      half = places > 16'd64 ? 1'b0 : left[63];
      more = places > 16'd64 ? |value : |left[62:0];
      case (mode)
        2'd0: shortened = whole + 64'(half && (more || whole[0]));
        2'd1: shortened = whole;
        2'd2: shortened = whole + 64'(half || more);
        default: shortened = whole + 64'(half);
      endcase
    end
  endfunction

  // the nearest number to value * 2 ^ power
  function automatic logic [31:0] nearest(input logic sign, input logic [63:0] value, input logic signed [15:0] power);
    /* verilator no_inline_task */
    logic signed [15:0] top, low, field;
    logic [63:0] found;
    top = 16'sd0;
    for (int place = 0; place < 64; place++) if (value[place]) top = 16'(place);
    low = power + top - 16'sd23;
    if (low < -16'sd149) low = -16'sd149;
    found = low <= power ? value << 6'(power - low) : shortened(value, 16'(low - power), 2'd0);
    if (found[24]) begin
      found = found >> 1;
      low = low + 16'sd1;
    end
    field = found[23] ? low + 16'sd150 : 16'sd0;
    if (value == 64'd0) nearest = {sign, 31'd0};
    else if (field >= 16'sd255) nearest = {sign, 8'hff, 23'd0};
    else nearest = {sign, field[7:0], found[22:0]};
  endfunction

  function automatic logic [31:0] product(input logic [31:0] a, input logic [31:0] b);
    /* verilator no_inline_task */
    logic sign;
    sign = a[31] ^ b[31];
    if (is_nan(a) || is_nan(b)) product = NAN;
    else if (is_infinite(a) || is_infinite(b))
      product = mantissa(a) == 24'd0 || mantissa(b) == 24'd0 ? NAN : {sign, 8'hff, 23'd0};
    else product = nearest(sign, 64'(mantissa(a)) * 64'(mantissa(b)), scale(a) + scale(b));
  endfunction

  function automatic logic [31:0] sum(input logic [31:0] a, input logic [31:0] b);
    /* verilator no_inline_task */
    logic [31:0] big, less;
    logic [63:0] one, other;
    logic [15:0] apart;
    big = a[30:0] < b[30:0] ? b : a;
    less = a[30:0] < b[30:0] ? a : b;
    apart = 16'(scale(big) - scale(less));
    one = {8'd0, mantissa(big), 32'd0};
    other = {8'd0, mantissa(less), 32'd0};
    // what falls off counts as a little
    if (apart > 16'd60) other = 64'(other != 64'd0);
    else other = (other >> apart[5:0]) | 64'((other & ((64'd1 << apart[5:0]) - 64'd1)) != 64'd0);
    if (is_nan(a) || is_nan(b) || (is_infinite(a) && is_infinite(b) && a[31] != b[31])) sum = NAN;
    else if (is_infinite(big)) sum = big;
    else if (a[31] != b[31] && one == other) sum = 32'd0;
    else sum = nearest(big[31], a[31] == b[31] ? one + other : one - other, scale(big) - 16'sd32);
  endfunction

  function automatic logic [31:0] quotient(input logic [31:0] a, input logic [31:0] b);
    /* verilator no_inline_task */
    logic [63:0] one, other, whole;
    logic signed [15:0] power;
    logic sign;
    sign = a[31] ^ b[31];
    one = {mantissa(a), 40'd0};
    other = 64'(mantissa(b));
    power = scale(a) - scale(b) - 16'sd41;
    for (int place = 0; place < 23; place++) begin
      if (!one[63]) begin
        one = one << 1;
        power = power - 16'sd1;
      end
      if (!other[23]) begin
        other = other << 1;
        power = power + 16'sd1;
      end
    end
    whole = other == 64'd0 ? 64'd0 : one / other;
    if (is_nan(a) || is_nan(b) || (is_infinite(a) && is_infinite(b)) || (mantissa(a) == 24'd0 && other == 64'd0))
      quotient = NAN;
    else if (is_infinite(a) || other == 64'd0) quotient = {sign, 8'hff, 23'd0};
    else if (is_infinite(b)) quotient = {sign, 31'd0};
    else quotient = nearest(sign, {whole[62:0], whole * other != one}, power);
  endfunction

  // Numbers in order; both zeros are equal.
  function automatic logic signed [32:0] order(input logic [31:0] a);
    order = a[31] ? -$signed({2'd0, a[30:0]}) : $signed({2'd0, a[30:0]});
  endfunction

  // A whole number; mode as in `shortened`, but 2 is down and 3 is away from zero.
  function automatic logic [63:0] whole(input logic [31:0] a, input logic [1:0] mode);
    logic [63:0] found;
    if (scale(a) >= 16'sd0) found = scale(a) > 16'sd63 ? 64'd0 : 64'(mantissa(a)) << 6'(scale(a));
    else found = shortened(64'(mantissa(a)), 16'(-scale(a)), mode == 2'd2 && !a[31] ? 2'd1 : mode);
    whole = a[31] ? -found : found;
  endfunction

  function automatic logic [31:0] rounded(input logic [31:0] a, input logic [1:0] mode);
    /* verilator no_inline_task */
    logic [63:0] found;
    found = whole(a, mode);
    if (scale(a) >= 16'sd0) rounded = a;
    else rounded = nearest(a[31], a[31] ? -found : found, 16'sd0);
  endfunction

  function automatic logic [31:0] of_whole(input logic signed [63:0] a);
    of_whole = nearest(a < 64'sd0, a < 64'sd0 ? -a : a, 16'sd0);
  endfunction
endpackage
