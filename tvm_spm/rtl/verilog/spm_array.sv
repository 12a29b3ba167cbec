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
    parameter int PORT_DEN = 1,
    parameter int UNIT_ROWS = ROWS,        // of the rectangles that PEs are described in
    parameter int UNIT_COLS = COLS
) (
    input logic clk,
    input logic rst,
    // fixed by the layer
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
    input logic [ROWS*416-1:0] row_place,  // per row: 8 offsets, its number in a sum, whether it is used, bases
    input logic [COLS*416-1:0] col_place,
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
    output logic [63:0] num_macs,
    output logic [2*64-1:0] num_heard
);
  /* verilator lint_off WIDTHCONCAT */     // networks of hundreds of elements a cycle are as wide as they seem
  localparam int STATIONS = ROWS + COLS - 1;
  localparam int TAG = 64 + 16 + 16;       // index in the box, address in RF, index of K

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
    box = '0;
    for (int o = 0; o < 3; o++) if (enter_start[o]) box[o*64+:64] = spread(axes[o*160+:160], enter_size, 16'd1, 16'd1);
    if (leave_start) box[3*64+:64] = spread(axes[320+:160], leave_size, 16'd1, 16'd1);
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

  spm_port #(
      .LANES(LANES), .RATE_NUM(RATE_NUM), .RATE_DEN(RATE_DEN), .PORT_NUM(PORT_NUM), .PORT_DEN(PORT_DEN)
  ) port_i (
      .clk, .rst, .start({leave_start, enter_start}),
      .elems({elems_of(box[3*64+:64]), elems_of(box[2*64+:64]), elems_of(box[64+:64]), elems_of(box[0+:64])}),
      .elem_bytes({elem_bytes[8+:4], elem_bytes}), .hold(leave_waits || leave_busy), .offered_in(allowed),
      .offered_out(out_offered), .taken_in(taken), .taken_out(out_taken)
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

  // Who may take it: buses look at what passes first, for a whole row or column.
  logic [3*64-1:0] full_span, row_reach, col_reach;  // of pieces, of the bases of all rows, of all columns
  logic [2:0] is_simple;

  always_comb begin
    row_reach = '0;
    col_reach = '0;
    for (int o = 0; o < 3; o++) begin
      full_span[o*64+:64] = spread(axes[o*160+:160], rf_tile, 16'd1, 16'd1);
      is_simple[o] = 1'b1;
      for (int axis = 0; axis < 4; axis++) begin
        for (int row = 0; row < ROWS; row++)
          if (row_place[row*416+136] && row_place[row*416+160+o*64+axis*16+:16] > row_reach[o*64+axis*16+:16])
            row_reach[o*64+axis*16+:16] = row_place[row*416+160+o*64+axis*16+:16];
        for (int col = 0; col < COLS; col++)
          if (col_place[col*416+136] && col_place[col*416+160+o*64+axis*16+:16] > col_reach[o*64+axis*16+:16])
            col_reach[o*64+axis*16+:16] = col_place[col*416+160+o*64+axis*16+:16];
        if (row_reach[o*64+axis*16+:16] != 16'd0 && col_reach[o*64+axis*16+:16] != 16'd0) is_simple[o] = 1'b0;
      end
    end
  end

  logic [15:0] row_base[0:11][0:ROWS-1];
  logic [15:0] col_base[0:11][0:COLS-1];
  logic row_used[0:ROWS-1];
  logic col_used[0:COLS-1];
  always_comb begin
    for (int row = 0; row < ROWS; row++) begin
      row_used[row] = row_place[row*416+136];
      for (int axis = 0; axis < 12; axis++) row_base[axis][row] = row_place[row*416+160+axis*16+:16];
    end
    for (int col = 0; col < COLS; col++) begin
      col_used[col] = col_place[col*416+136];
      for (int axis = 0; axis < 12; axis++) col_base[axis][col] = col_place[col*416+160+axis*16+:16];
    end
  end

  logic [4*LANES-1:0] passes;
  logic [4*LANES*ROWS-1:0] may_rows;
  logic [4*LANES*COLS-1:0] may_cols;
  assign passes = {out_taken, taken};

  always_comb begin
    logic [63:0] where;
    logic [15:0] reach;
    logic near_row[0:ROWS-1];
    logic near_col[0:COLS-1];
    int base, row, col, lane;
    where = 64'd0;
    reach = 16'd0;
    base = 0;
    row = 0;
    col = 0;
    lane = 0;
    for (row = 0; row < ROWS; row++) near_row[row] = 1'b0;
    for (col = 0; col < COLS; col++) near_col[col] = 1'b0;
    may_rows = '0;
    may_cols = '0;
    if (|passes)
      for (int network = 0; network < 4; network++)
        for (lane = 0; lane < LANES; lane++)
          if (passes[network*LANES+lane]) begin
            where = network == 3 ? out_at[lane*64+:64] : at[((network%3)*LANES+lane)*64+:64];
            for (int axis = 0; axis < 4; axis++) begin
              base = network == 3 ? 8 + axis : network * 4 + axis;
              reach = full_span[base*16+:16] + col_reach[base*16+:16];
              for (row = 0; row < ROWS; row++)
                near_row[row] = (axis == 0 ? row_used[row] : near_row[row])
                    & (where[axis*16+:16] - row_base[base][row] < reach);
              reach = full_span[base*16+:16] + row_reach[base*16+:16];
              for (col = 0; col < COLS; col++)
                near_col[col] = (axis == 0 ? col_used[col] : near_col[col])
                    & (where[axis*16+:16] - col_base[base][col] < reach);
            end
            for (row = 0; row < ROWS; row++) may_rows[(network*LANES+lane)*ROWS+row] = near_row[row];
            for (col = 0; col < COLS; col++) may_cols[(network*LANES+lane)*COLS+col] = near_col[col];
          end
  end

  // sums on their way out: a tag passes station after station, and PEs of that place in a sum add to what comes along
  logic [STATIONS*LANES-1:0] tag_valid, tag_last;
  logic [STATIONS*LANES*TAG-1:0] tags;
  logic [STATIONS*LANES*32-1:0] tag_address;
  logic [STATIONS*LANES*ROWS-1:0] tag_rows;
  logic [STATIONS*LANES*COLS-1:0] tag_cols;
  logic [LANES-1:0] last_now;
  logic [LANES*TAG-1:0] tag_now;
  logic [LANES*32-1:0] address_now;
  logic [7:0] hops;
  logic [LANES-1:0] written, result_valid;
  logic [LANES*32-1:0] sums;

  assign hops = 8'(sum_rows) + 8'(sum_cols) - 8'd2;

  always_comb begin
    last_now = '0;
    tag_now = '0;
    address_now = '0;
    for (int lane = 0; lane < LANES; lane++)
      if (out_taken[lane]) begin
        last_now[lane] = out_last && (lane == LANES - 1 || !out_taken[(lane+1)%LANES]);
        tag_now[lane*TAG+:TAG] = {
          out_turn[lane*16+:16], in_rf(out_at[lane*64+:64], rf_stride[128+:64]), out_at[lane*64+:64]
        };
        address_now[lane*32+:32] = origin[3*32+:32] + in_spm(out_at[lane*64+:64], spm_stride[256+:128]);
      end
  end

  generate
    if (STATIONS > 1) begin : g_stations
      localparam int LATER = (STATIONS - 1) * LANES;
      logic [LATER-1:0] later_valid, later_last;
      logic [LATER*TAG-1:0] later_tags;
      logic [LATER*32-1:0] later_address;
      logic [LATER*ROWS-1:0] later_rows;
      logic [LATER*COLS-1:0] later_cols;
      always_ff @(posedge clk) begin
        later_valid <= rst ? '0 : tag_valid[LATER-1:0];
        later_last <= rst ? '0 : tag_last[LATER-1:0];
        if (|tag_valid) begin
          later_tags <= tags[LATER*TAG-1:0];
          later_address <= tag_address[LATER*32-1:0];
          later_rows <= tag_rows[LATER*ROWS-1:0];
          later_cols <= tag_cols[LATER*COLS-1:0];
        end
      end
      assign tag_valid = {later_valid, out_taken};
      assign tag_last = {later_last, last_now};
      assign tags = {later_tags, tag_now};
      assign tag_address = {later_address, address_now};
      assign tag_rows = {later_rows, may_rows[3*LANES*ROWS+:LANES*ROWS]};
      assign tag_cols = {later_cols, may_cols[3*LANES*COLS+:LANES*COLS]};
    end else begin : g_station
      assign tag_valid = out_taken;
      assign tag_last = last_now;
      assign tags = tag_now;
      assign tag_address = address_now;
      assign tag_rows = may_rows[3*LANES*ROWS+:LANES*ROWS];
      assign tag_cols = may_cols[3*LANES*COLS+:LANES*COLS];
    end
  endgenerate

  assign written = tag_valid[32'(hops)*LANES+:LANES];
  assign leave_last = |(written & tag_last[32'(hops)*LANES+:LANES]);
  assign write_address = tag_address[32'(hops)*LANES*32+:LANES*32];
  assign write_valid = written & result_valid;
  assign write_data = sums;

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

  // A port with a limit brings sums in when all others have left: nothing to follow.
  logic [63:0] out_rank;
  logic out_done;
  assign out_rank = rank(out_beyond);
  assign out_done = !out_busy || out_last;

  always_comb begin
    allowed = offered;
    for (int lane = 0; lane < LANES; lane++)
      if (PORT_NUM != 0) allowed[2*LANES+lane] = offered[2*LANES+lane];
      else if (leave_waits) allowed[2*LANES+lane] = 1'b0;
      else if (leave_busy && in_place) begin
        if (num_back + 32'(lane) >= now_written) allowed[2*LANES+lane] = 1'b0;
      end else if (leave_busy && !out_done && rank(at[(2*LANES+lane)*64+:64]) >= out_rank)
        allowed[2*LANES+lane] = 1'b0;
  end

  // SPM ---------------------------------------------------------------------------------------------------------------
  logic [3*LANES*16-1:0] enter_address;
  logic [3*LANES*32-1:0] enter_data;

  always_comb begin
    logic [15:0] along;
    along = 16'd0;
    read_valid = taken;
    read_address = '0;
    enter_address = '0;
    for (int o = 0; o < 3; o++)
      for (int lane = 0; lane < LANES; lane++)
        if (taken[o*LANES+lane]) begin
          read_address[(o*LANES+lane)*32+:32] =
              origin[o*32+:32] + in_spm(at[(o*LANES+lane)*64+:64], spm_stride[o*128+:128]);
          enter_address[(o*LANES+lane)*16+:16] = in_rf(at[(o*LANES+lane)*64+:64], rf_stride[o*64+:64]);
          // padding is not read
          if (o == 0)
            for (int axis = 0; axis < 4; axis++) begin
              along = origin_at[axis*16+:16] + at[lane*64+axis*16+:16];
              if (along < low[axis*16+:16] || along >= high[axis*16+:16]) read_valid[lane] = 1'b0;
            end
        end
  end

  always_comb begin
    enter_data = read_data;
    // what is written in this cycle is read already
    if (|taken[2*LANES+:LANES] && |write_valid)
      for (int lane = 0; lane < LANES; lane++)
        for (int other = 0; other < LANES; other++)
          if (write_valid[other] && write_address[other*32+:32] == read_address[(2*LANES+lane)*32+:32])
            enter_data[(2*LANES+lane)*32+:32] = write_data[other*32+:32];
  end

  // PEs ---------------------------------------------------------------------------------------------------------------
  localparam int DOWN = ROWS / UNIT_ROWS, ALONG = COLS / UNIT_COLS, UNITS = DOWN * ALONG;
  logic [UNITS*LANES-1:0] unit_valid;
  logic [UNITS*LANES*32-1:0] unit_result;
  logic [UNITS*64-1:0] unit_macs;
  logic [UNITS*128-1:0] unit_heard;
  logic [(ALONG+1)*ROWS*LANES*32-1:0] right;  // sums between units
  logic [(DOWN+1)*COLS*LANES*32-1:0] below;
  always_comb for (int i = 0; i < ROWS * LANES; i++) right[i*32+:32] = 32'd0;
  always_comb for (int i = 0; i < COLS * LANES; i++) below[i*32+:32] = 32'd0;
  logic unused;
  assign unused = &{1'b0, right[ALONG*ROWS*LANES*32+:ROWS*LANES*32], below[DOWN*COLS*LANES*32+:COLS*LANES*32]};

  always_comb begin
    result_valid = '0;
    sums = '0;
    num_macs = 64'd0;
    num_heard = '0;
    for (int unit = 0; unit < UNITS; unit++) begin
      result_valid = result_valid | unit_valid[unit*LANES+:LANES];
      sums = sums | unit_result[unit*LANES*32+:LANES*32];
      num_macs = num_macs + unit_macs[unit*64+:64];
      for (int o = 0; o < 2; o++)
        num_heard[o*64+:64] = num_heard[o*64+:64] + unit_heard[unit*128+o*64+:64];
    end
  end

  generate
    for (genvar row = 0; row < DOWN; row++) begin : g_row
      for (genvar col = 0; col < ALONG; col++) begin : g_col
        localparam int UNIT = row * ALONG + col;
        logic [3*LANES*UNIT_ROWS-1:0] enter_rows;
        logic [3*LANES*UNIT_COLS-1:0] enter_cols;
        logic [STATIONS*LANES*UNIT_ROWS-1:0] leave_rows;
        logic [STATIONS*LANES*UNIT_COLS-1:0] leave_cols;
        if (UNITS == 1) begin : g_whole
          assign enter_rows = may_rows[0+:3*LANES*ROWS];
          assign enter_cols = may_cols[0+:3*LANES*COLS];
          assign leave_rows = tag_rows;
          assign leave_cols = tag_cols;
        end else begin : g_part
          always_comb begin
            for (int i = 0; i < 3 * LANES; i++) begin
              enter_rows[i*UNIT_ROWS+:UNIT_ROWS] = may_rows[i*ROWS+row*UNIT_ROWS+:UNIT_ROWS];
              enter_cols[i*UNIT_COLS+:UNIT_COLS] = may_cols[i*COLS+col*UNIT_COLS+:UNIT_COLS];
            end
            for (int i = 0; i < STATIONS * LANES; i++) begin
              leave_rows[i*UNIT_ROWS+:UNIT_ROWS] = tag_rows[i*ROWS+row*UNIT_ROWS+:UNIT_ROWS];
              leave_cols[i*UNIT_COLS+:UNIT_COLS] = tag_cols[i*COLS+col*UNIT_COLS+:UNIT_COLS];
            end
          end
        end

        spm_pes #(
            .ROWS(UNIT_ROWS), .COLS(UNIT_COLS), .STATIONS(STATIONS), .LANES(LANES), .RF_BYTES(RF_BYTES), .STAGES(STAGES)
        ) pes_i (
            .clk, .rst, .row_place(row_place[row*UNIT_ROWS*416+:UNIT_ROWS*416]),
            .col_place(col_place[col*UNIT_COLS*416+:UNIT_COLS*416]), .array_tile, .rf_tile, .axes, .full_span,
            .is_simple, .elem_bytes, .is_signed, .sum_rows, .sum_cols, .has_holes(period != 16'd0), .enter_start,
            .enter_size, .enter_valid(taken), .enter_rows, .enter_cols, .enter_at(at), .enter_turn(turn),
            .enter_address, .enter_data, .enter_buffer, .leave_start, .leave_size, .leave_valid(tag_valid), .leave_rows,
            .leave_cols, .leave_tag(tags), .leave_buffer, .leave_which,
            .sum_left(right[(col*ROWS+row*UNIT_ROWS)*LANES*32+:UNIT_ROWS*LANES*32]),
            .sum_above(below[(row*COLS+col*UNIT_COLS)*LANES*32+:UNIT_COLS*LANES*32]),
            .sum_right(right[((col+1)*ROWS+row*UNIT_ROWS)*LANES*32+:UNIT_ROWS*LANES*32]),
            .sum_below(below[((row+1)*COLS+col*UNIT_COLS)*LANES*32+:UNIT_COLS*LANES*32]),
            .result_valid(unit_valid[UNIT*LANES+:LANES]), .result(unit_result[UNIT*LANES*32+:LANES*32]), .step_start,
            .step_size, .step_new, .step_read, .step_which(step_which[2]), .mac_which(which[2]), .mac_valid(mac_busy),
            .mac_at, .mac_address, .mac_first, .num_macs(unit_macs[UNIT*64+:64]), .num_heard(unit_heard[UNIT*128+:128])
        );
      end
    end
  endgenerate
endmodule
