// One operation of the vector unit on one element, within a cycle.
module spm_operation (
    input logic works,
    input logic [63:0] word,               // its code, dtype, that of its sources, result, three sources
    input logic [8*64-1:0] constants,
    input logic [31:0] sum,
    input logic [3:0] sum_type,
    input logic [95:0] streamed,           // what the sources bring of extras
    input logic [15:0] extra_types,
    input logic [8*64-1:0] registers,
    output logic [8*64-1:0] registers_next,
    output logic [31:0] result
);
  function automatic logic [63:0] typed(input logic [63:0] value, input logic [3:0] dtype);
    case (dtype)
      4'd0: typed = {{56{value[7]}}, value[7:0]};
      4'd1: typed = {56'd0, value[7:0]};
      4'd2: typed = {{48{value[15]}}, value[15:0]};
      4'd3: typed = {48'd0, value[15:0]};
      4'd4: typed = {{32{value[31]}}, value[31:0]};
      4'd5, 4'd8: typed = {32'd0, value[31:0]};
      default: typed = value;
    endcase
  endfunction

  function automatic logic [63:0] computed(
      input logic [7:0] code, input logic [3:0] dtype, input logic [3:0] from, input logic signed [63:0] a,
      input logic signed [63:0] b, input logic signed [63:0] c);
    logic [63:0] value;
    if (from == 4'd8)
      case (code)
        8'd2: value = dtype == 4'd8 ? a : spm_float::whole(a[31:0], 2'd1);
        8'd3: value = 64'(spm_float::sum(a[31:0], b[31:0]));
        8'd4: value = 64'(spm_float::sum(a[31:0], {!b[31], b[30:0]}));
        8'd5: value = 64'(spm_float::product(a[31:0], b[31:0]));
        8'd6: value = spm_float::order(a[31:0]) < spm_float::order(b[31:0]) ? a : b;
        8'd7: value = spm_float::order(a[31:0]) > spm_float::order(b[31:0]) ? a : b;
        8'd16: value = 64'(spm_float::order(a[31:0]) < spm_float::order(b[31:0]));
        8'd17: value = 64'(spm_float::order(a[31:0]) <= spm_float::order(b[31:0]));
        8'd18: value = 64'(spm_float::order(a[31:0]) == spm_float::order(b[31:0]));
        8'd19: value = 64'(spm_float::order(a[31:0]) != spm_float::order(b[31:0]));
        8'd32: value = 64'(spm_float::quotient(a[31:0], b[31:0]));
        8'd35: value = {33'd0, a[30:0]};
        8'd43: value = 64'(spm_float::rounded(a[31:0], 2'd2));
        8'd44: value = {32'd0, spm_float::rounded({!a[31], a[30:0]}, 2'd2) ^ 32'h80000000};
        8'd45: value = 64'(spm_float::rounded(a[31:0], 2'd0));
        8'd47: value = 64'(spm_float::rounded(a[31:0], 2'd1));
        default: value = 64'd0;
      endcase
    else
      case (code)
        8'd2: value = dtype == 4'd8 ? 64'(spm_float::of_whole(a)) : a;
        8'd3: value = a + b;
        8'd4: value = a - b;
        8'd5: value = a * b;
        8'd6: value = a < b ? a : b;
        8'd7: value = a > b ? a : b;
        8'd8: value = a >>> b[5:0];
        8'd9: value = a << b[5:0];
        8'd10: value = a & b;
        8'd11: value = a | b;
        8'd12: value = a ^ b;
        8'd16: value = 64'(a < b);
        8'd17: value = 64'(a <= b);
        8'd18: value = 64'(a == b);
        8'd19: value = 64'(a != b);
        8'd20: value = a != 64'd0 ? b : c;
        8'd32: value = b == 64'sd0 ? 64'sd0 : a / b;
        8'd35: value = a < 64'sd0 ? -a : a;
        8'd48: value = b == 64'sd0 ? 64'sd0 : a % b;
        8'd49: value = (a * b + (64'sd1 << (c[5:0] - 6'd1))) >>> c[5:0];
        default: value = 64'd0;
      endcase
    computed = typed(value, dtype);
  endfunction

  always_comb begin
    logic [63:0] source_a, source_b, source_c, found;
    logic [7:0] from;
    source_a = 64'd0;
    source_b = 64'd0;
    source_c = 64'd0;
    found = 64'd0;
    from = 8'd0;
    registers_next = registers;
    result = 32'd0;
    if (works) begin
      for (int source = 0; source < 3; source++) begin
        // 0..7 registers, 8..15 constants, 16..19 extras, 31 the sum
        from = word[24+source*8+:8];
        if (from == 8'd31) found = typed({32'd0, sum}, sum_type);
        else if (from[4]) found = typed({32'd0, streamed[source*32+:32]}, extra_types[32'(from[1:0])*4+:4]);
        else if (from[3]) found = constants[32'(from[2:0])*64+:64];
        else found = registers[32'(from[2:0])*64+:64];
        if (source == 0) source_a = found;
        else if (source == 1) source_b = found;
        else source_c = found;
      end
      found = computed(word[7:0], word[11:8], word[15:12], source_a, source_b, source_c);
      registers_next[32'(word[18:16])*64+:64] = found;
      result = found[31:0];
    end
  end

  logic unused;
  assign unused = &{1'b0, word};
endmodule
