// The PE array of a core with its networks: one multicast network for I, one for W, one for sums that are read back, and the
// reduction network by which sums leave.
module spm_array #(
    parameter int ROWS = 2,
    parameter int COLS = 2,
    parameter int RF_BYTES = 64,
    parameter int STAGES = 1,
    parameter int LANES = 1,
    parameter int RATE_NUM = 1,
    parameter int RATE_DEN = 1,
    parameter int PORT_NUM = 0,
    parameter int PORT_DEN = 1
) (
    input logic clk,
    input logic rst,
    // fixed by the layer
    input logic configure,
    input logic [127:0] array_tile,
    input logic [127:0] rf_tile,
    input logic [3:0] num_loops,
    input logic [31:0] loop_dim,
    input logic [11:0] depth,
    input logic [2:0] is_double,
    input logic [11:0] elem_bytes,
    input logic [1:0] is_signed,
    input logic [15:0] period,             // of K in the box of sums that spans groups, else 0
    input logic [1:0] hole_axis,
    input logic [6*16-1:0] rf_buffer,      // first byte of I0 I1 W0 W1 O0 O1 in RF
    input logic [3*8*16-1:0] rf_step,
    input logic [3*4*40-1:0] axes,         // of I, W, O: per axis two dims that index it (4 bits each), how far each (16)
    input logic [3*4*32-1:0] spm_stride,
    input logic [3*4*16-1:0] rf_stride,
    input logic [15:0] sum_rows,           // PEs along each axis that add up one sum
    input logic [15:0] sum_cols,
    input logic [ROWS*144-1:0] row_place,  // per row: 8 offsets, its number in a sum, whether it is used
    input logic [COLS*144-1:0] col_place,
    // of the pass
    input logic go,
    input logic [4:0] go_flags,
    input logic [127:0] go_tile,
    input logic [95:0] go_address,         // of the tiles of I W O in SPM
    input logic [63:0] go_low,             // first index along each axis of the tile of I that is not padding
    input logic [63:0] go_high,            // the one behind the last
    output logic running,
    output logic pass_last,
    // SPM
    output logic [3*LANES-1:0] read_valid,
    output logic [3*LANES*32-1:0] read_address,
    input logic [3*LANES*32-1:0] read_data,
    output logic [LANES-1:0] write_valid,
    output logic [LANES*32-1:0] write_address,
    output logic [LANES*32-1:0] write_data,
    // what happened
    output logic [4*LANES-1:0] crossed,    // I, W, sums in, sums out
    output logic [ROWS*COLS*32-1:0] num_macs,
    output logic [ROWS*COLS*64-1:0] num_heard
);
  localparam int STATIONS = ROWS + COLS - 1;
  localparam int TAG = 1 + 1 + 16 + 64 + 16 + 32;  // valid, last, index of K, index in the box, address in RF, in SPM

  // sequencer ---------------------------------------------------------------------------------------------------------
  logic [2:0] enter_start, enter_which, enter_busy, enter_last, step_which;
  logic [127:0] enter_base, enter_size, leave_base, leave_size, step_size;
  logic leave_start, leave_which, in_place, leave_waits, leave_busy, leave_last;
  logic step_start, step_new, step_read, mac_busy, mac_last;

  spm_sequence #(.STAGES(STAGES)) sequence_i (
      .clk, .rst, .array_tile, .num_loops, .loop_dim, .depth, .is_double, .go, .go_flags, .go_tile, .running,
      .pass_last, .enter_start, .enter_base, .enter_size, .enter_which, .enter_busy, .enter_last, .leave_start,
      .leave_base, .leave_size, .leave_which, .in_place, .leave_waits, .leave_busy, .leave_last, .step_start,
      .step_size, .step_new, .step_read, .step_which, .mac_busy, .mac_last
  );

  logic [95:0] address, address_next;
  logic [63:0] low, high;
  assign address_next = go ? go_address : address;

  always_ff @(posedge clk)
    if (rst) {address, low, high} <= '0;
    else if (go) begin
      address <= go_address;
      low <= go_low;
      high <= go_high;
    end

  // multipliers -------------------------------------------------------------------------------------------------------
  logic [127:0] mac_at, mac_limit;
  logic [47:0] mac_offset, mac_address, enter_buffer;
  logic mac_first;
  logic [2:0] which;
  logic [15:0] leave_buffer;

  always_comb
    for (int d = 0; d < 8; d++)
      mac_limit[d*16+:16] = step_size[d*16+:16] < rf_tile[d*16+:16] ? step_size[d*16+:16] : rf_tile[d*16+:16];

  spm_macs macs_i (
      .clk, .rst, .start(step_start), .limit(mac_limit), .rf_step, .busy(mac_busy), .last(mac_last), .at(mac_at),
      .address(mac_offset), .first_sum(mac_first)
  );

  always_ff @(posedge clk)
    if (rst) which <= 3'd0;
    else if (step_start) which <= step_which;

  always_comb begin
    for (int o = 0; o < 3; o++) begin
      mac_address[o*16+:16] = mac_offset[o*16+:16] + rf_buffer[(2*o+32'(which[o]))*16+:16];
      enter_buffer[o*16+:16] = rf_buffer[(2*o+32'(enter_which[o]))*16+:16];
    end
    leave_buffer = rf_buffer[(4+32'(leave_which))*16+:16];
      end

  // networks ----------------------------------------------------------------------------------------------------------
  // Along each axis: first + sum over its terms of distance * (elems - less)
  function automatic logic [63:0] spread(
      input logic [159:0] terms, input logic [127:0] elems, input logic [15:0] first, input logic [15:0] less);
    for (int axis = 0; axis < 4; axis++)
      spread[axis*16+:16] = first
          + terms[axis*40+8+:16] * (elems[32'(terms[axis*40+:3])*16+:16] - less)
          + terms[axis*40+24+:16] * (elems[32'(terms[axis*40+4+:3])*16+:16] - less);
  endfunction

  function automatic logic [31:0] in_spm(input logic [63:0] where, input logic [127:0] stride);
    in_spm = 32'd0;
    for (int axis = 0; axis < 4; axis++) in_spm = in_spm + 32'(where[axis*16+:16]) * stride[axis*32+:32];
  endfunction

  function automatic logic [15:0] in_rf(input logic [63:0] where, input logic [63:0] stride);
    in_rf = 16'd0;
    for (int axis = 0; axis < 4; axis++) in_rf = in_rf + where[axis*16+:16] * stride[axis*16+:16];
  endfunction

  function automatic logic [31:0] elems_of(input logic [63:0] box);
    elems_of = 32'(box[15:0]) * 32'(box[31:16]) * 32'(box[47:32]) * 32'(box[63:48]);
  endfunction

  logic [4*64-1:0] box;                    // I, W, sums in, sums out
  logic [3*LANES-1:0] offered, allowed, taken;
  logic [3*LANES*64-1:0] at;
  logic [LANES*16-1:0] turn, out_turn;
  logic [LANES-1:0] out_offered, out_taken;
  logic [LANES*64-1:0] out_at;
  logic [63:0] out_beyond;
  logic out_busy, out_last;
  logic [4*32-1:0] origin;                 // of the box, in SPM
  logic [63:0] origin_at;                  // of the box of I, in the tile

  always_comb begin
    for (int o = 0; o < 3; o++) box[o*64+:64] = spread(axes[o*160+:160], enter_size, 16'd1, 16'd1);
    box[3*64+:64] = spread(axes[320+:160], leave_size, 16'd1, 16'd1);
  end

  generate
    for (genvar network = 0; network < 3; network++) begin : g_walk
      logic [63:0] unused_beyond;
      logic [LANES*16-1:0] own_turn;
      if (network == 2) begin : g_turn
        assign turn = own_turn;
      end else begin : g_no_turn
        logic unused_turn;
        assign unused_turn = &{1'b0, own_turn};
      end
      spm_walk #(.LANES(LANES), .RATE_NUM(RATE_NUM), .RATE_DEN(RATE_DEN)) walk_i (
          .clk, .rst, .start(enter_start[network]), .size(box[network*64+:64]),
          .period, .hole_axis, .turn(own_turn), .offered(offered[network*LANES+:LANES]), .at(at[network*LANES*64+:LANES*64]),
          .taken(taken[network*LANES+:LANES]), .beyond(unused_beyond), .busy(enter_busy[network]),
          .last(enter_last[network])
      );
    end
  endgenerate

  spm_walk #(.LANES(LANES), .RATE_NUM(RATE_NUM), .RATE_DEN(RATE_DEN)) out_i (
      .clk, .rst, .start(leave_start), .size(box[3*64+:64]), .period, .hole_axis, .turn(out_turn),
      .offered(out_offered), .at(out_at), .taken(out_taken),
      .beyond(out_beyond), .busy(out_busy), .last(out_last)
  );

  spm_port #(.LANES(LANES), .PORT_NUM(PORT_NUM), .PORT_DEN(PORT_DEN)) port_i (
      .clk, .rst, .start({leave_start, enter_start}),
      .elems({elems_of(box[3*64+:64]), elems_of(box[2*64+:64]), elems_of(box[64+:64]), elems_of(box[0+:64])}),
      .elem_bytes({elem_bytes[8+:4], elem_bytes}), .offered_in(allowed), .offered_out(out_offered), .taken_in(taken),
      .taken_out(out_taken)
  );
  assign crossed = {out_taken, taken};

  always_ff @(posedge clk)
    if (rst) {origin, origin_at} <= '0;
    else begin
      for (int o = 0; o < 3; o++)
        if (enter_start[o])
          origin[o*32+:32] <= address_next[o*32+:32]
              + in_spm(spread(axes[o*160+:160], enter_base, 16'd0, 16'd0), spm_stride[o*128+:128]);
      if (enter_start[0]) origin_at <= spread(axes[0+:160], enter_base, 16'd0, 16'd0);
      if (leave_start)
        origin[3*32+:32] <= address[2*32+:32] + in_spm(spread(axes[320+:160], leave_base, 16'd0, 16'd0), spm_stride[256+:128]);
    end

  // sums on their way out: a tag passes station after station, and PEs of that place in a sum add to what comes along
  logic [STATIONS*LANES*TAG-1:0] tags;
  logic [LANES*TAG-1:0] tag_now;
  logic [7:0] hops;
  logic [LANES*TAG-1:0] arriving;
  logic [LANES-1:0] written;
  logic [LANES*32-1:0] sums;

  assign hops = 8'(sum_rows) + 8'(sum_cols) - 8'd2;

  always_comb
    for (int lane = 0; lane < LANES; lane++)
      tag_now[lane*TAG+:TAG] = {
        out_taken[lane],
        out_last && (lane == LANES - 1 || !out_taken[(lane+1)%LANES]),
        out_turn[lane*16+:16],
        out_at[lane*64+:64],
        in_rf(out_at[lane*64+:64], rf_stride[128+:64]),
        origin[3*32+:32] + in_spm(out_at[lane*64+:64], spm_stride[256+:128])
      };

  generate
    if (STATIONS > 1) begin : g_stations
      logic [(STATIONS-1)*LANES*TAG-1:0] tags_later;
      for (genvar station = 0; station < STATIONS - 1; station++) begin : g_later
        always_ff @(posedge clk)
          if (rst) tags_later[station*LANES*TAG+:LANES*TAG] <= '0;
          else tags_later[station*LANES*TAG+:LANES*TAG] <= tags[station*LANES*TAG+:LANES*TAG];
      end
      assign tags = {tags_later, tag_now};
    end else begin : g_station
      assign tags = tag_now;
    end
  endgenerate

  assign arriving = tags[32'(hops)*LANES*TAG+:LANES*TAG];

  always_comb begin
    leave_last = 1'b0;
    for (int lane = 0; lane < LANES; lane++) begin
      written[lane] = arriving[lane*TAG+TAG-1];
      leave_last = leave_last || (written[lane] && arriving[lane*TAG+TAG-2]);
      write_address[lane*32+:32] = arriving[lane*TAG+:32];
      write_data[lane*32+:32] = sums[lane*32+:32];
    end
  end

  always_ff @(posedge clk)
    if (rst) leave_busy <= 1'b0;
    else if (leave_start) leave_busy <= 1'b1;
    else if (leave_last) leave_busy <= 1'b0;

  // sums that come back beside those that leave: never ahead of them
  logic [31:0] num_back, num_written, now_written;
  always_comb begin
    now_written = num_written;
    for (int lane = 0; lane < LANES; lane++) if (written[lane]) now_written = now_written + 32'd1;
  end

  always_ff @(posedge clk)
    if (rst) begin
      num_back <= 32'd0;
      num_written <= 32'd0;
    end else begin
      num_written <= leave_start ? 32'd0 : now_written;
      if (enter_start[2]) num_back <= 32'd0;
      else
        for (int lane = 0; lane < LANES; lane++)
          if (taken[2*LANES+lane]) num_back <= num_back + 32'(lane) + 32'd1;
    end

  function automatic logic [63:0] rank(input logic [63:0] where);
    rank = {where[15:0], where[31:16], where[47:32], where[63:48]};
  endfunction

  logic [63:0] out_rank;
  logic out_done;
  // Where the port decides what leaves, only what has left before this cycle counts.
  generate
    if (PORT_NUM == 0) begin : g_free
      assign out_rank = rank(out_beyond);
      assign out_done = !out_busy || out_last;
    end else begin : g_shared
      logic [63:0] here;
      always_ff @(posedge clk) here <= leave_start ? 64'd0 : out_beyond;
      assign out_rank = rank(here);
      assign out_done = !out_busy;
    end
  endgenerate
  logic [31:0] num_readable;
  assign num_readable = PORT_NUM == 0 ? now_written : num_written;

  always_comb begin
    allowed = offered;
    for (int lane = 0; lane < LANES; lane++)
      if (leave_waits) allowed[2*LANES+lane] = 1'b0;
      else if (leave_busy && in_place) begin
        if (num_back + 32'(lane) >= num_readable) allowed[2*LANES+lane] = 1'b0;
      end else if (leave_busy && !out_done && rank(at[(2*LANES+lane)*64+:64]) >= out_rank)
        allowed[2*LANES+lane] = 1'b0;
  end

  // SPM ---------------------------------------------------------------------------------------------------------------
  logic [3*LANES*16-1:0] enter_address;
  logic [3*LANES*32-1:0] enter_data;

  always_comb
    for (int o = 0; o < 3; o++)
      for (int lane = 0; lane < LANES; lane++) begin
        read_valid[o*LANES+lane] = taken[o*LANES+lane];
        read_address[(o*LANES+lane)*32+:32] =
            origin[o*32+:32] + in_spm(at[(o*LANES+lane)*64+:64], spm_stride[o*128+:128]);
        enter_address[(o*LANES+lane)*16+:16] = in_rf(at[(o*LANES+lane)*64+:64], rf_stride[o*64+:64]);
      end

  always_comb begin
    logic [15:0] along;
    logic is_padding;
    along = 16'd0;
    is_padding = 1'b0;
    enter_data = read_data;
    for (int lane = 0; lane < LANES; lane++) begin
      is_padding = 1'b0;
      for (int axis = 0; axis < 4; axis++) begin
        along = origin_at[axis*16+:16] + at[lane*64+axis*16+:16];
        is_padding = is_padding || along < low[axis*16+:16] || along >= high[axis*16+:16];
      end
      if (is_padding) enter_data[lane*32+:32] = 32'd0;
      // what is written in this cycle is read already
      for (int other = 0; other < LANES; other++)
        if (write_valid[other] && write_address[other*32+:32] == read_address[(2*LANES+lane)*32+:32])
          enter_data[(2*LANES+lane)*32+:32] = write_data[other*32+:32];
    end
  end

  // PEs ---------------------------------------------------------------------------------------------------------------
  logic [ROWS*COLS*LANES*32-1:0] chain, result;
  logic [ROWS*COLS*LANES-1:0] result_valid;

  always_comb begin
    sums = '0;
    write_valid = '0;
    if (|written)
      for (int pe = 0; pe < ROWS * COLS; pe++)
        for (int lane = 0; lane < LANES; lane++)
          if (result_valid[pe*LANES+lane]) begin
            write_valid[lane] = 1'b1;
            sums[lane*32+:32] = sums[lane*32+:32] | result[(pe*LANES+lane)*32+:32];
          end
  end

  generate
    for (genvar row = 0; row < ROWS; row++) begin : g_row
      for (genvar col = 0; col < COLS; col++) begin : g_col
        localparam int PE = row * COLS + col;
        logic [127:0] place;
        logic [7:0] row_number, col_number, station;
        logic is_end;
        logic [LANES*TAG-1:0] passing;
        logic [LANES-1:0] leave_valid;
        logic [LANES*64-1:0] leave_at;
        logic [LANES*16-1:0] leave_address, leave_turn;

        always_comb begin
          for (int d = 0; d < 8; d++)
            place[d*16+:16] = row_place[row*144+d*16+:16] + col_place[col*144+d*16+:16];
          row_number = row_place[row*144+128+:8];
          col_number = col_place[col*144+128+:8];
          station = row_number + col_number;
          is_end = 16'(row_number) + 16'd1 == sum_rows && 16'(col_number) + 16'd1 == sum_cols;
          passing = tags[32'(station)*LANES*TAG+:LANES*TAG];
          for (int lane = 0; lane < LANES; lane++) begin
            leave_valid[lane] = passing[lane*TAG+TAG-1];
            leave_at[lane*64+:64] = passing[lane*TAG+48+:64];
            leave_turn[lane*16+:16] = passing[lane*TAG+112+:16];
            leave_address[lane*16+:16] = passing[lane*TAG+32+:16];
          end
        end

        spm_pe #(.LANES(LANES), .RF_BYTES(RF_BYTES), .STAGES(STAGES)) pe_i (
            .clk, .rst, .configure, .enabled(row_place[row*144+136] && col_place[col*144+136]),
            .is_root(station == 8'd0), .is_end, .from_left(col_number != 8'd0),
            .from_above(16'(col_number) + 16'd1 == sum_cols && row_number != 8'd0), .place, .rf_tile, .axes,
            .rf_stride, .elem_bytes, .is_signed, .has_holes(period != 16'd0), .enter_turn(turn), .leave_turn, .enter_start, .enter_size, .enter_valid(taken),
            .enter_at(at), .enter_address, .enter_data, .enter_buffer, .leave_start, .leave_size,
            .leave_valid, .leave_at, .leave_address, .leave_buffer, .leave_which,
            .sum_left(col == 0 ? {LANES*32{1'b0}} : chain[((PE+ROWS*COLS-1)%(ROWS*COLS))*LANES*32+:LANES*32]),
            .sum_above(row == 0 ? {LANES*32{1'b0}} : chain[((PE+ROWS*COLS-COLS)%(ROWS*COLS))*LANES*32+:LANES*32]),
            .sum_on(chain[PE*LANES*32+:LANES*32]), .result_valid(result_valid[PE*LANES+:LANES]),
            .result(result[PE*LANES*32+:LANES*32]), .step_start, .step_size, .step_new, .step_read,
            .step_which(step_which[2]), .mac_which(which[2]), .mac_valid(mac_busy), .mac_at, .mac_address, .mac_first,
            .num_macs(num_macs[PE*32+:32]), .num_heard(num_heard[PE*64+:64])
        );
      end
    end
  endgenerate
endmodule
