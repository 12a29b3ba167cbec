// One PE: its register file, its multiplier, and its ends of the operand networks and of the reduction network.
//
// Elements come by on a network with their index in the box of the array tile; a PE takes those inside the box of its own
// piece. Sums leave along a chain of PEs that work on the same outputs: right along the row, then down the last column.
module spm_pe #(
    parameter int LANES = 1,
    parameter int RF_BYTES = 64,
    parameter int STAGES = 1
) (
    input logic clk,
    input logic rst,
    // fixed by the layer
    input logic configure,
    input logic enabled,
    input logic is_root,                   // takes sums that are read back, and is where a chain starts
    input logic is_end,                    // where a chain ends
    input logic from_left,
    input logic from_above,
    input logic [127:0] place,             // of its piece in the array tile, per dim
    input logic [127:0] rf_tile,           // of a full piece
    input logic [3*4*40-1:0] axes,         // of I, W, O: two dims that index each axis, and how far
    input logic [3*4*16-1:0] rf_stride,    // bytes from an element of an axis to the next
    input logic [11:0] elem_bytes,         // 1, 2 or 4, of I, W, O
    input logic [1:0] is_signed,           // I, W
    input logic has_holes,                 // the box of sums spans groups: K must match by itself
    // networks: I, W, sums in; of these three the lowest bits are I's
    input logic [2:0] enter_start,
    input logic [127:0] enter_size,        // of the array tile that enters
    input logic [3*LANES-1:0] enter_valid,
    input logic [3*LANES*64-1:0] enter_at,
    input logic [LANES*16-1:0] enter_turn, // of sums: index of K
    input logic [3*LANES*16-1:0] enter_address,
    input logic [3*LANES*32-1:0] enter_data,
    input logic [47:0] enter_buffer,
    // sums out
    input logic leave_start,
    input logic [127:0] leave_size,
    input logic [LANES-1:0] leave_valid,
    input logic [LANES*64-1:0] leave_at,
    input logic [LANES*16-1:0] leave_turn,
    input logic [LANES*16-1:0] leave_address,
    input logic [15:0] leave_buffer,
    input logic leave_which,
    input logic [LANES*32-1:0] sum_left,
    input logic [LANES*32-1:0] sum_above,
    output logic [LANES*32-1:0] sum_on,    // to the next PE of the chain
    output logic [LANES-1:0] result_valid,
    output logic [LANES*32-1:0] result,
    // multiplier
    input logic step_start,
    input logic [127:0] step_size,         // of the array tile worked on
    input logic step_new,                  // its outputs have just entered
    input logic step_read,                 // and were read back
    input logic step_which,                // the buffer they are in
    input logic mac_which,                 // the one of the step that runs
    input logic mac_valid,
    input logic [127:0] mac_at,
    input logic [47:0] mac_address,
    input logic mac_first,
    // what happened
    output logic [31:0] num_macs,
    output logic [63:0] num_heard          // elements of I, W
);
  /* verilator no_inline_module */
  localparam int AW = $clog2(RF_BYTES);
  logic [7:0] rf[0:RF_BYTES-1];
  logic [3*4*16-1:0] base;
  logic [47:0] base_address;
  logic [3*4*16-1:0] span;
  logic [2:0] is_busy;
  logic [63:0] leave_span;
  logic [15:0] enter_channels, leave_channels;
  logic leave_busy;
  logic [127:0] piece;
  logic is_fresh, configured, based;
  logic [127:0] offset;
  logic [1:0] has_sum;

  // pieces ------------------------------------------------------------------------------------------------------------
  function automatic logic [127:0] cut(input logic [127:0] size);
    for (int d = 0; d < 8; d++)
      if (!enabled || size[d*16+:16] <= offset[d*16+:16]) cut[d*16+:16] = 16'd0;
      else if (size[d*16+:16] - offset[d*16+:16] < rf_tile[d*16+:16])
        cut[d*16+:16] = size[d*16+:16] - offset[d*16+:16];
      else cut[d*16+:16] = rf_tile[d*16+:16];
  endfunction

  // Along each axis: first + sum over its terms of distance * (elems - less)
  function automatic logic [63:0] spread(
      input logic [159:0] terms, input logic [127:0] elems, input logic [15:0] first, input logic [15:0] less);
    for (int axis = 0; axis < 4; axis++)
      spread[axis*16+:16] = first
          + terms[axis*40+8+:16] * (elems[32'(terms[axis*40+:3])*16+:16] - less)
          + terms[axis*40+24+:16] * (elems[32'(terms[axis*40+4+:3])*16+:16] - less);
  endfunction

  function automatic logic [0:0] is_any(input logic [127:0] elems);
    is_any = 1'b1;
    for (int d = 0; d < 8; d++) is_any = is_any && elems[d*16+:16] != 16'd0;
  endfunction

  function automatic logic [0:0] is_inside(input logic [63:0] where, input logic [63:0] from, input logic [63:0] elems);
    is_inside = 1'b1;
    for (int axis = 0; axis < 4; axis++)
      is_inside = is_inside && where[axis*16+:16] - from[axis*16+:16] < elems[axis*16+:16];
  endfunction

  // Outputs do not depend on summed dims: a PE without products in this tile still passes the sums of others on.
  function automatic logic [127:0] unsummed(input logic [127:0] elems);
    unsummed = elems;
    unsummed[3*16+:16] = 16'd1;
    unsummed[6*16+:32] = {16'd1, 16'd1};
  endfunction

  // what is heard and what is taken along -----------------------------------------------------------------------------
  logic [3*LANES-1:0] hears;
  logic [LANES-1:0] has;
  logic [3*LANES*16-1:0] into;
  logic [LANES*16-1:0] out_of;
  logic [LANES*32-1:0] sum_now;

  always_comb begin
    hears = '0;
    into = '0;
    for (int o = 0; o < 3; o++)
      for (int lane = 0; lane < LANES; lane++) begin
        if (enter_valid[o*LANES+lane] && is_busy[o]) begin
          hears[o*LANES+lane] = is_inside(enter_at[(o*LANES+lane)*64+:64], base[o*64+:64], span[o*64+:64])
              && (o != 2 || !has_holes || enter_turn[lane*16+:16] - offset[32+:16] < enter_channels);
          into[(o*LANES+lane)*16+:16] =
              enter_buffer[o*16+:16] + enter_address[(o*LANES+lane)*16+:16] - base_address[o*16+:16];
        end
      end
    has = '0;
    out_of = '0;
    for (int lane = 0; lane < LANES; lane++)
      if (leave_valid[lane] && leave_busy) begin
        has[lane] = is_inside(leave_at[lane*64+:64], base[2*64+:64], leave_span)
            && (!has_holes || leave_turn[lane*16+:16] - offset[32+:16] < leave_channels);
        out_of[lane*16+:16] = leave_buffer + leave_address[lane*16+:16] - base_address[32+:16];
      end
  end

  function automatic logic [31:0] word(input logic [15:0] address, input logic [3:0] bytes, input logic extend);
    logic sign;
    sign = extend && rf[AW'(address+16'(bytes)-16'd1)][7];
    for (int b = 0; b < 4; b++) word[b*8+:8] = 4'(b) < bytes ? rf[AW'(address+16'(b))] : {8{sign}};
  endfunction

  always_comb begin
    logic [31:0] own;
    sum_now = '0;
    for (int lane = 0; lane < LANES; lane++) begin
      own = 32'd0;
      if (has[lane] && has_sum[leave_which]) own = word(out_of[lane*16+:16], elem_bytes[8+:4], 1'b1);
      sum_now[lane*32+:32] = own + (from_left ? sum_left[lane*32+:32] : 32'd0)
          + (from_above ? sum_above[lane*32+:32] : 32'd0);
    end
  end

  assign result_valid = is_end ? has : '0;
  assign result = sum_now;

  // multiplier --------------------------------------------------------------------------------------------------------
  logic works;
  logic [31:0] product, add_product;
  logic add_valid, add_first;
  logic [15:0] add_address;

  always_comb begin
    works = 1'b0;
    if (mac_valid) begin
      works = is_any(piece);
      for (int d = 0; d < 8; d++) works = works && mac_at[d*16+:16] < piece[d*16+:16];
    end
    product = 32'd0;
    if (works)
      product = word(mac_address[0+:16], elem_bytes[0+:4], is_signed[0])
          * word(mac_address[16+:16], elem_bytes[4+:4], is_signed[1]);
  end

  generate
    if (STAGES == 1) begin : g_direct
      assign add_valid = works;
      assign add_first = is_fresh && mac_first;
      assign add_address = mac_address[32+:16];
      assign add_product = product;
    end else begin : g_stages
      logic [(STAGES-1)*50-1:0] stages;
      always_ff @(posedge clk)
        if (rst) stages <= '0;
        else stages <= ((STAGES-1)*50)'({stages, works, is_fresh && mac_first, mac_address[32+:16], product});
      assign {add_valid, add_first, add_address, add_product} = stages[(STAGES-1)*50-1-:50];
    end
  endgenerate

  always_ff @(posedge clk) begin
    logic [31:0] total;
    total = add_product;
    if (add_valid && !add_first) total = add_product + word(add_address, elem_bytes[8+:4], 1'b1);
    for (int b = 0; b < 4; b++) if (add_valid && 4'(b) < elem_bytes[8+:4]) rf[AW'(add_address+16'(b))] <= total[b*8+:8];
    for (int o = 0; o < 3; o++)
      for (int lane = 0; lane < LANES; lane++)
        if (hears[o*LANES+lane] && (o != 2 || is_root))
          for (int b = 0; b < 4; b++)
            if (4'(b) < elem_bytes[o*4+:4])
              rf[AW'(into[(o*LANES+lane)*16+:16]+16'(b))] <= enter_data[(o*LANES+lane)*32+b*8+:8];
  end

  always_ff @(posedge clk) begin
    logic [127:0] cut_off;
    cut_off = 128'd0;
    if (rst) begin
      base <= '0;
      base_address <= '0;
      span <= '0;
      is_busy <= '0;
      leave_span <= '0;
      enter_channels <= 16'd0;
      leave_channels <= 16'd0;
      leave_busy <= 1'b0;
      piece <= '0;
      is_fresh <= 1'b0;
      configured <= 1'b0;
      based <= 1'b0;
      offset <= '0;
      has_sum <= 2'b00;
      sum_on <= '0;
    end else begin
      if (configure) offset <= place;
      if (configured)
        for (int o = 0; o < 3; o++) base[o*64+:64] <= spread(axes[o*160+:160], offset, 16'd0, 16'd0);
      configured <= configure;
      based <= configured;
      if (based)
        for (int o = 0; o < 3; o++)
          base_address[o*16+:16] <= base[o*64+:16] * rf_stride[o*64+:16] + base[o*64+16+:16] * rf_stride[o*64+16+:16]
              + base[o*64+32+:16] * rf_stride[o*64+32+:16] + base[o*64+48+:16] * rf_stride[o*64+48+:16];
      if (|enter_start) begin
        cut_off = cut(enter_size);
        for (int o = 0; o < 3; o++)
          if (enter_start[o]) begin
            span[o*64+:64] <= spread(axes[o*160+:160], cut_off, 16'd1, 16'd1);
            is_busy[o] <= is_any(o == 2 ? unsummed(cut_off) : cut_off);
          end
        if (enter_start[2]) enter_channels <= cut_off[32+:16];
      end
      if (leave_start) begin
        cut_off = cut(leave_size);
        leave_channels <= cut_off[32+:16];
        leave_span <= spread(axes[320+:160], cut_off, 16'd1, 16'd1);
        leave_busy <= enabled && is_any(unsummed(cut_off));
      end
      if (works) has_sum[mac_which] <= 1'b1;
      if (step_start) begin
        piece <= cut(step_size);
        is_fresh <= step_new && !(step_read && is_root);
        if (step_new) has_sum[step_which] <= step_read && is_root;
      end
      sum_on <= sum_now;
    end
  end

  always_ff @(posedge clk) begin
    logic [63:0] heard;
    heard = num_heard;
    for (int o = 0; o < 2; o++)
      for (int lane = 0; lane < LANES; lane++)
        if (hears[o*LANES+lane]) heard[o*32+:32] = heard[o*32+:32] + 32'd1;
    num_heard <= rst ? 64'd0 : heard;
    if (rst) num_macs <= 32'd0;
    else if (works) num_macs <= num_macs + 32'd1;
  end
endmodule
